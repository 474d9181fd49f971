"""Secrets: AEAD, key agreement, identities, the Noise handshake, replay windows. Knows nothing of packets.

May import the ground floor only; third-party cryptography is touched in ``backend`` alone.
"""
