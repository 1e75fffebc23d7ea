"""What the worker's process knows of checkpoints."""


class Left(Exception):
    """This attempt leaves its job to a later one."""
