"""Bytes to values and back. Pure functions, no state, no I/O.

May import the ground floor only. Called by protocol and peers, under the endpoint lock or anywhere else.
"""
