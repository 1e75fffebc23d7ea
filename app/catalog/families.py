"""The student families, and the type of a field that takes any of them."""

from typing import TYPE_CHECKING

from app.catalog.base import Architecture, discover, one_of

ARCHITECTURES = discover("app.catalog.architectures", Architecture)

if TYPE_CHECKING:
    AnyArchitecture = Architecture
else:
    AnyArchitecture = one_of(ARCHITECTURES)
