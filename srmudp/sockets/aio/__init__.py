"""Sockets run by an asyncio event loop: the same file names as in the folder above, where threads do the work."""
