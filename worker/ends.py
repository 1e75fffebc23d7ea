"""Ends of an attempt that are no verdict on its job."""


class Left(Exception):
    """This attempt leaves its job to a later one, with a checkpoint where it was possible."""


class PeerLost(Exception):
    """Another rank's process is gone, and without it no step can be taken."""
