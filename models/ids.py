"""Ids are opaque text here; stage one's columns may store them as integers, as text or as UUIDs.

PostgreSQL raises an error when an integer column is compared with `abc`, so a query first asks whether the column can
hold the id at all (`can_hold`). An id that it cannot hold matches no row.
"""

import re
from uuid import UUID
from weakref import WeakKeyDictionary

from sqlalchemy import (
    BigInteger,
    BindParameter,
    ColumnElement,
    Engine,
    Integer,
    SmallInteger,
    String,
    Uuid,
    and_,
    cast,
    inspect,
    select,
)
from sqlalchemy.engine.interfaces import ReflectedColumn
from sqlalchemy.orm import Mapped, Session
from sqlmodel import col

from models.tables import Chunk, Course, Resource
from models.text import is_unicode

TABLES = ("course", "resource", "chunk")
_CANONICAL_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,18}")


class IdColumns:
    """The types of stage one's id columns.

    Args:
        columns: As reflected from the database, by table and name.
        is_sqlite: Whether all integers have 64 bits, whatever their declared type.
    """

    def __init__(self, columns: dict[tuple[str, str], ReflectedColumn], *, is_sqlite: bool) -> None:
        self._columns = columns
        self._bits = 63 if is_sqlite else None

    @classmethod
    def of(cls, session: Session) -> "IdColumns":
        """The columns of the session's database, reflected once for each engine.

        Raises:
            sqlalchemy.exc.DBAPIError: A table is missing.
        """
        engine = session.get_bind().engine
        if engine not in _known:
            _known[engine] = cls.reflect(session)
        return _known[engine]

    @classmethod
    def reflect(cls, session: Session) -> "IdColumns":
        """The columns as they are now.

        Raises:
            sqlalchemy.exc.DBAPIError: A table is missing.
        """
        for table in (Course, Resource, Chunk):
            session.execute(select(col(table.id)).limit(0))
        schema = inspect(session.connection())
        columns = {(table, column["name"]): column for table in TABLES for column in schema.get_columns(table)}
        return cls(columns, is_sqlite=schema.dialect.name == "sqlite")

    def can_hold(self, table: str, column: str, value: str) -> bool:
        """Whether the column can hold the id, and gives back the same text.

        An integer column cannot hold `01`: it would be read back as `1`.
        """
        if not _is_text(value):
            return False
        kind = self._columns[table, column]["type"]
        if isinstance(kind, Integer):
            limit = 2 ** (self._bits or _bits(kind))
            return _CANONICAL_INTEGER.fullmatch(value) is not None and -limit <= int(value) < limit
        return not isinstance(kind, Uuid) or _is_uuid(value)

    def kind(self, table: str, column: str) -> str:
        """What the column stores, for messages: `an integer`, `a UUID` or `text`."""
        match self._columns[table, column]["type"]:
            case Integer():
                return "an integer"
            case Uuid():
                return "a UUID"
            case _:
                return "text"

    def is_integer(self, table: str, column: str) -> bool:
        """Whether the column stores integers."""
        return isinstance(self._columns[table, column]["type"], Integer)

    def is_generated(self, table: str, column: str) -> bool:
        """Whether the database generates the value of the column."""
        definition = self._columns[table, column]
        return bool(definition.get("identity") or definition["default"])


_known: WeakKeyDictionary[Engine, IdColumns] = WeakKeyDictionary()


def can_hold(session: Session, column: Mapped[str], value: str) -> bool:
    """Whether a query may compare the column with the value; if not, no row has it.

    SQLite compares any two values, so only the text itself is checked there.
    """
    if session.get_bind().dialect.name == "sqlite":
        return _is_text(value)
    table_column = column.expression  # type: ignore[attr-defined]
    return IdColumns.of(session).can_hold(table_column.table.name, table_column.name, value)


def is_id(column: Mapped[str], value: str | BindParameter[str]) -> ColumnElement[bool]:
    """Matches exactly one id: as the column's own type, which uses the index, and as text."""
    return and_(column == value, cast(column, String) == value)


def _bits(kind: Integer) -> int:
    if isinstance(kind, SmallInteger):
        return 15
    return 63 if isinstance(kind, BigInteger) else 31


def _is_uuid(value: str) -> bool:
    try:
        return str(UUID(value)) == value
    except ValueError:
        return False


def _is_text(value: str) -> bool:
    """Whether a database can store the value as text: no NUL, no unpaired surrogate."""
    return "\0" not in value and is_unicode(value)
