"""Every error that a user can meet, with its HTTP status and its stable code, as a tree.

A message names the thing, the value and the way out. It never carries a path, SQL, a host name or a stack.
"""

import errno
import re
from dataclasses import asdict, dataclass
from typing import Any, ClassVar


def shown(value: object, length: int = 60) -> str:
    """A value that somebody sent, fit for a message: quoted, on one line, printable, shortened."""
    text = str(value)
    return repr(text if len(text) <= length else text[:length] + "...")


def sentence(text: str) -> str:
    """With a full stop, and a capital where it begins with a word; a name of code stays as it is written."""
    start = text[:1].upper() if re.match(r"[a-z]+[ ,;]", text) else text[:1]
    return f"{start}{text[1:]}" + ("" if not text or text.endswith((".", "?", "!")) else ".")


def is_full(error: BaseException) -> bool:
    """Whether a disk had no room."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def pointer(*parts: object) -> str:
    """The JSON pointer (RFC 6901) that leads through keys and places; long keys are shortened."""
    return "".join("/" + str(part)[:100].replace("~", "~0").replace("/", "~1") for part in parts)


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong: where (a JSON pointer into the request), what, and the way out."""

    pointer: str
    code: str
    detail: str
    fix: str = ""


class StillhouseError(Exception):
    """The root. `detail` is one sentence for the user; `faults` point at the fields that caused it."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    title: ClassVar[str] = "Something broke on our side"
    retryable: ClassVar[bool] = False

    def __init__(self, detail: str, *faults: Fault, retry_after_s: int | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.faults = faults
        self.retry_after_s = retry_after_s

    def body(self) -> dict[str, Any]:
        """The error as RFC 9457 problem details, without the members that belong to one request."""
        return {
            "type": f"urn:stillhouse:error:{self.code}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            "retryable": self.retryable,
            "errors": [
                asdict(fault) | {"detail": sentence(fault.detail), "fix": sentence(fault.fix)}
                for fault in self.faults
            ],
        }


class Misconfigured(StillhouseError):
    """A setting that nothing can start with; it never reaches a client."""

    code, title = "misconfigured", "The settings do not fit together"


# ---- the request is wrong


class MalformedRequest(StillhouseError):
    status, code, title = 400, "malformed_request", "This is no HTTP request"


class MalformedBody(StillhouseError):
    status, code, title = 400, "malformed_body", "The body cannot be read"


class Unauthenticated(StillhouseError):
    status, code, title = 401, "unauthenticated", "A valid key is needed"


class Forbidden(StillhouseError):
    status, code, title = 403, "forbidden", "This request is not allowed here"


class NotFound(StillhouseError):
    status, code, title = 404, "not_found", "There is no such thing"


class MethodNotAllowed(StillhouseError):
    status, code, title = 405, "method_not_allowed", "This method is not offered here"


class RequestTimedOut(StillhouseError):
    status, code, title, retryable = 408, "request_timed_out", "The request came too slowly", True


class StateConflict(StillhouseError):
    status, code, title = 409, "state_conflict", "The state does not allow this"


class InUse(StateConflict):
    code, title = "in_use", "Something still needs it"


class ModelNotReady(StateConflict):
    code, title = "model_not_ready", "This model cannot be served"


class VersionConflict(StillhouseError):
    status, code, title = 412, "version_conflict", "It has changed since you read it"


class PayloadTooLarge(StillhouseError):
    status, code, title = 413, "payload_too_large", "The body is too large"


class UnsupportedMediaType(StillhouseError):
    status, code, title = 415, "unsupported_media_type", "This content type is not understood here"


class RangeNotSatisfiable(StillhouseError):
    status, code, title = 416, "range_not_satisfiable", "The range lies outside the file"


class Overloaded(StillhouseError):
    status, code, title, retryable = 429, "rate_limited", "Too much at once", True


class QuotaExceeded(StillhouseError):
    status, code, title = 429, "quota_exceeded", "A quota of the project is used up"


class HeadersTooLarge(StillhouseError):
    status, code, title = 431, "headers_too_large", "The address and the headers are too large"


class Unavailable(StillhouseError):
    status, code, title, retryable = 503, "unavailable", "Not ready yet", True


class SourceAway(Unavailable):
    code, title = "source_away", "The source does not answer"


# ---- the content is wrong


class Invalid(StillhouseError):
    """422: understood, but it cannot be done as asked."""

    status, code, title = 422, "invalid_request", "The request cannot be carried out as it stands"


class InvalidSpec(Invalid):
    code, title = "invalid_spec", "The job spec is not valid"


class UnknownReference(Invalid):
    code, title = "unknown_reference", "A reference points at nothing"


class ReferenceNotReady(Invalid):
    code, title = "reference_not_ready", "What is pointed at is not there yet"


class LabelMismatch(Invalid):
    code, title = "label_mismatch", "Teacher and data disagree about the labels"


class ShapeMismatch(Invalid):
    code, title = "shape_mismatch", "Shapes do not fit together"


class UnknownLayer(Invalid):
    code, title = "unknown_layer", "A model does not show what a loss looks at"


class DatasetTooSmall(Invalid):
    code, title = "dataset_too_small", "There are too few rows"


class InvalidData(Invalid):
    code, title = "invalid_data", "The data cannot be used"


class UnsafeFormat(Invalid):
    code, title = "unsafe_format", "This file could run code or harm the reader"


class UnsafeUrl(Invalid):
    code, title = "unsafe_url", "This address may not be called from here"


class UnknownSource(Invalid):
    code, title = "unknown_source", "There is nothing at this source"


class SourceForbidden(Invalid):
    code, title = "source_forbidden", "The source does not let us in"


class SourceCorrupt(Invalid):
    code, title = "source_corrupt", "The source does not give what it promises"


class WillNotFit(Invalid):
    code, title = "will_not_fit", "The order is larger than this installation allows"


class IdempotencyKeyReused(Invalid):
    code, title = "idempotency_key_reused", "This Idempotency-Key was used with another body"


# ---- a job fails


class JobFailure(StillhouseError):
    """Ends a job. `blame` says whose turn it is to act: user, platform or capacity."""

    code, title = "job_failed", "The job failed"
    blame: ClassVar[str] = "platform"


class TeacherLoadFailed(JobFailure):
    code, title, blame = "teacher_load_failed", "The teacher cannot be loaded", "user"


class NothingInherited(JobFailure):
    code, title, blame = "nothing_inherited", "Nothing of the model fits into the student", "user"


class DataUnusable(JobFailure):
    code, title, blame = "data_unusable", "The data cannot be used for this job", "user"


class NumericDivergence(JobFailure):
    code, title, blame = "numeric_divergence", "A loss became infinite or not a number", "user"


class OutOfMemory(JobFailure):
    code, title, blame = "out_of_memory", "The job needs more memory than there is", "capacity"


class DeadlineExceeded(JobFailure):
    code, title, blame = "deadline", "The job ran longer than it may", "user"


class NoSuchDevice(JobFailure):
    code, title, blame = "no_such_device", "The worker lacks the device that was ordered", "capacity"


class ExportFailed(JobFailure):
    code, title, blame = "export_failed", "The student cannot be written in an ordered format", "platform"


class ExportMismatch(JobFailure):
    code, title, blame = (
        "export_mismatch",
        "An exported file does not compute what the student computes",
        "platform",
    )


class Poison(JobFailure):
    code, title, blame = "poison", "Every attempt died without progress", "platform"


class NotMeasured(JobFailure):
    code, title = "not_measured", "A trial ended without what the sweep looks for"


class NoTrialSucceeded(JobFailure):
    code, title, blame = "no_trial_succeeded", "No trial of the sweep succeeded", "user"


class BlobCorrupt(StillhouseError):
    """Stored bytes do not have the digest under which they stand."""

    code, title = "blob_corrupt", "Stored content is damaged"


class LeaseLost(StillhouseError):
    """This attempt no longer owns its job: stop at once, write nothing."""

    code, title = "worker_lost", "Another attempt owns this job"
