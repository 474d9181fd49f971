"""Asking the home's router to let in what comes for our port: NAT-PMP, PCP and UPnP. Changes the router, so only when
the program asks for it; blocks, so only on threads of its own.

May import the ground floor, wire and (UPnP, in a process of its own) the library that the extra ``upnp`` installs.
"""
