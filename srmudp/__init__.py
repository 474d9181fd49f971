"""Encrypted, reliable sockets that connect people behind home routers directly to each other."""

__version__ = "0.1.0"
