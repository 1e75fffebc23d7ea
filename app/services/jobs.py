"""The life of a job, and the only door to its status.

Every operation is one guarded UPDATE: it names the state it expects, and whoever lost a race changes nothing.
`attempt` is the fencing token: it grows at each claim, so that a worker which was taken for dead cannot write
over its successor. Each change moves `version` and writes its events in the same transaction, numbered
without a gap. Times are the database's.

The operations stand by who asks for them: users (services.wishes), supervisors (services.leases) and the
attempt's own process (services.attempts); services.claims begins an attempt. All of them change a row by
services.transitions alone, which an import contract keeps from everybody else.
"""

from app.services.attempts import (
    Json,
    Point,
    adjust,
    end_phase,
    fail,
    note,
    owned,
    report_progress,
    start_phase,
    succeed,
)
from app.services.leases import BACKOFF_S, Orders, cancelled, crash, put_off, reap, renew, silent, yield_
from app.services.wishes import cancel, pause, remove, resume

__all__ = [
    "BACKOFF_S",
    "Json",
    "Orders",
    "Point",
    "adjust",
    "cancel",
    "cancelled",
    "crash",
    "end_phase",
    "fail",
    "note",
    "owned",
    "pause",
    "put_off",
    "reap",
    "remove",
    "renew",
    "report_progress",
    "resume",
    "silent",
    "start_phase",
    "succeed",
    "yield_",
]
