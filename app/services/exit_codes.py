"""What an attempt's process says by the way it ends. A verdict is in the row by then, and the code is 0."""

CRASHED = 1  # as any code that does not stand here: it ended before its time
AWAY = 69  # the database or the object store did not answer: not the job's fault
ORPHANED = 70  # its supervisor is gone
NO_ROOM = 74  # this machine's disk is full
LEASE_LOST = 75  # another attempt owns the job
LEFT = 76  # asked to leave, it saved a checkpoint and went
