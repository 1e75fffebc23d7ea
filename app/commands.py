"""How the commands of an operator refuse: with a sentence and the exit code 2, never with a stack."""

import re
import sys
from collections.abc import Callable

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import SettingsError
from sqlalchemy.exc import DBAPIError

from app.db.session import OUTAGES
from app.errors import Misconfigured
from app.settings import Settings

REFUSED = 2
REFUSALS = (ValidationError, SettingsError, Misconfigured, DBAPIError, *OUTAGES)


def ended(command: Callable[[], int]) -> int:
    """The command's exit code."""
    try:
        return command()
    except REFUSALS as error:
        return refused(error)


def refused(error: Exception) -> int:
    """Says why, and gives the exit code. error: one of REFUSALS."""
    sys.stderr.write(f"stillhouse: {_reason(error)}\n")
    return REFUSED


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(map(_complaint, error.errors()))
    if isinstance(error, SettingsError):  # what should be JSON is none; the error names the setting alone
        field = re.search(r'field "(\w+)"', str(error))
        name = field[1].upper() if field else "..."
        return f'STILLHOUSE_{name} is read as JSON, as in ["a", "b"] or {{"a": 1}}.'
    if isinstance(error, Misconfigured):
        return error.detail
    return (
        "The database does not answer, or is none of ours: start it, or name another in "
        "STILLHOUSE_DATABASE_URL."
    )


def _complaint(error: ErrorDetails) -> str:
    """Without the value, which may be a secret."""
    name = str(error["loc"][0])
    field = Settings.model_fields.get(name)
    meant = f" (it is: {field.description})" if field is not None and field.description else ""
    return f"STILLHOUSE_{name.upper()}: {error['msg']}{meant}"
