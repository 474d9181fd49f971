"""The shells: threads, locks, clocks and blocking calls around the endpoint.

May import everything but the applications (chat, cli). One lock guards the endpoint and all below it.
"""
