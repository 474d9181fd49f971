"""Moves datagrams and understands none. With ``sockets``, the only room that touches the operating system.

May import the ground floor only.
"""
