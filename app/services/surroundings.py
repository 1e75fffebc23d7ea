"""The environments of child processes that need few of the operator's variables: those are named here, and
all others, secrets among them, stay behind."""

from collections.abc import Mapping
from fnmatch import fnmatchcase

PLAIN = (
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "TMPDIR",
    "LANG",
    "LC_*",
    "TZ",
    "PYTHON*",
    "LD_*",
    "OMP_*",
    "MKL_*",
)
STORES = (
    "STILLHOUSE_*",
    "AWS_*",
    "PG*",
    "SSL_CERT_*",
    "*_PROXY",
)  # the settings, and what opens what they name
DEVICES = (
    "CUDA_*",
    "NVIDIA_*",
    "NCCL_*",
    "GLOO_*",
    "KINETO_*",
    "TORCH*",
    "PYTORCH_*",
    "CUBLAS_*",
    "HF_*",
    "TRANSFORMERS_*",
)
_ELSEWHERE = ("STILLHOUSE_QUEUE_URL", "STILLHOUSE_CONNECTIONS")  # settings that a rank has no use for


def of_a_stranger(variables: Mapping[str, str]) -> dict[str, str]:
    """For who reads what strangers made: nothing that opens anything."""
    return _those(variables, PLAIN)


def of_a_rank(variables: Mapping[str, str]) -> dict[str, str]:
    """For who trains on one device of several, from the database and the blobs."""
    kept = _those(variables, (*PLAIN, *STORES, *DEVICES))
    return {name: text for name, text in kept.items() if name.upper() not in _ELSEWHERE}


def _those(variables: Mapping[str, str], names: tuple[str, ...]) -> dict[str, str]:
    return {
        name: text for name, text in variables.items() if any(fnmatchcase(name.upper(), one) for one in names)
    }
