"""Getting through NATs, no I/O: asking STUN servers, answering as one, what the answers say of the NAT in between.

May import the ground floor and wire. Called by peers, under the endpoint lock; pure functions anywhere.
"""
