"""A socket with one peer: ``SecureReliableSocket``, in the form of srudp's or of srmudp 0.0.4's."""
