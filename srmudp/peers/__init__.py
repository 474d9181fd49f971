"""One socket's peers, no I/O: who a datagram belongs to, who is let in, who is tried next.

May import ground, wire, crypto and protocol. Every call is made under the endpoint lock.
"""
