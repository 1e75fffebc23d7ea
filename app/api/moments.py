"""Times and days that clients send. At the ends of the calendar no database and no arithmetic holds."""

from datetime import date
from typing import Annotated, TypeVar

from pydantic import AfterValidator, AwareDatetime

FIRST_YEAR, LAST_YEAR = 2000, 2400
D = TypeVar("D", bound=date)  # a datetime is one, too


def _within(value: D) -> D:
    if not FIRST_YEAR <= value.year < LAST_YEAR:
        raise ValueError(f"give a time from {FIRST_YEAR} on and before {LAST_YEAR}")
    return value


Moment = Annotated[AwareDatetime, AfterValidator(_within)]
CalendarDay = Annotated[date, AfterValidator(_within)]
