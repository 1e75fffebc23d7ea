"""What a child of ours says by the way it ends: the process of an attempt, or the one that opens uploads.

An attempt's verdict is in the job's row by then, and the code is 0.
"""

CRASHED = 1  # as any code that does not stand here: it ended before its time
AWAY = 69  # the database or the object store did not answer: not the job's fault
ORPHANED = 70  # its supervisor is gone
NOT_BEGUN = 71  # said for it by its supervisor: this machine could start no process
NO_ROOM = 74  # this machine's disk is full
LEASE_LOST = 75  # another attempt owns the job
LEFT = 76  # asked to leave, it saved a checkpoint and went
