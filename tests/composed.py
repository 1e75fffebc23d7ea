"""docker-compose.yml as Compose reads it: variables put in, anchors and merges resolved."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
FILE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = FILE["services"]
_VARIABLE = re.compile(r"\$\{(\w+)(:[-?])?([^}]*)\}")


def environment(service: str, given: Mapping[str, str]) -> dict[str, str]:
    """A service's variables. given: the caller's own. Raises KeyError for one that is missing."""
    found = SERVICES[service]["environment"]
    return {name: _VARIABLE.sub(lambda match: _put_in(match, given), str(found[name])) for name in found}


def _put_in(match: re.Match[str], given: Mapping[str, str]) -> str:
    name, how, rest = match.groups()
    return given.get(name) or rest if how == ":-" else given[name]
