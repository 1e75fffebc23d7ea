"""The base of all tables: how constraints are named, and what a column of a type is."""

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    Float,
    MetaData,
    String,
)
from sqlalchemy.orm import DeclarativeBase

from app.db.dialect import UtcTime

Json = dict[str, Any]


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar = {
        datetime: UtcTime,
        Json: JSON,
        list[Any]: JSON,
        str: String(255),
        float: Float(53),
    }
