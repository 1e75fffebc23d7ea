"""What may be ordered here, straight from the catalog."""

import platform
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from inspect import cleandoc
from typing import Any

from fastapi import APIRouter
from sqlalchemy.orm import Session

from app.api.dependencies import PartsDep, ReadSession
from app.catalog.base import Frozen
from app.catalog.measures import AGAINST_LABELS, measures
from app.catalog.spec import ARCHITECTURES, AUGMENTATIONS, EXPORTS, LOSSES, SCHEMES, TASKS
from app.catalog.sweep import Choice, FloatRange, IntRange, MedianRule
from app.services import workers
from app.strict_json import MAX_DEPTH

router = APIRouter(prefix="/v1/capabilities", tags=["capabilities"])
_LIBRARIES = ("stillhouse", "fastapi", "pydantic", "onnxruntime")
_LIMITS = (
    "max_json_bytes",
    "max_upload_bytes",
    "max_archive_entries",
    "max_archive_ratio",
    "max_pixels",
    "max_parameters",
)


@router.get("")
def capabilities(parts: PartsDep, session: ReadSession) -> dict[str, Any]:
    """What may be ordered and what a sweep may vary, with their JSON Schemas; limits, versions."""
    limits = {name: getattr(parts.settings, name) for name in _LIMITS} | {"max_json_depth": MAX_DEPTH}
    return {**_catalog(), "limits": limits, "devices": _devices(session), "versions": _versions()}


@cache
def _catalog() -> dict[str, Any]:
    return {
        "tasks": _described(TASKS, "gives", "modality", "metric", "answer", "own_loss"),
        "architectures": _described(ARCHITECTURES, "exports", "gives", "format", "quantization"),
        "losses": _described(LOSSES, "needs", "answers", "batch_statistic", "paper"),
        "augmentations": _described(AUGMENTATIONS, "modality", "mixes"),
        "schemes": _described(SCHEMES),
        "exports": _described(EXPORTS, "serves", "tolerance"),
        "metrics": {answer: list(measures(answer)) for answer in AGAINST_LABELS},
        "sweeps": {
            "space": _described({"float": FloatRange, "int": IntRange, "choice": Choice}),
            "pruning": _described({"median": MedianRule}),
        },
    }


def _described(plugins: Mapping[str, type[Frozen]], *facts: str) -> list[dict[str, Any]]:
    return [
        {
            "kind": kind,
            "help": cleandoc(plugin.__doc__ or ""),
            "schema": plugin.model_json_schema(),
            **{fact: _plain(getattr(plugin, fact)) for fact in facts},
        }
        for kind, plugin in plugins.items()
    ]


def _plain(fact: Any) -> Any:
    """As JSON; null: it depends on the parameters, as all of `like_teacher` does."""
    if isinstance(fact, property):
        return None
    return sorted(fact) if isinstance(fact, frozenset) else fact


def _devices(session: Session) -> list[str]:
    """What the workers offer that are there."""
    return sorted({name for worker in workers.live(session) for name in worker.accelerators})


@cache
def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in _LIBRARIES}}
