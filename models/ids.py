"""Compares ids with stage one's id columns, whose type may be integer, text or UUID. In Python, all ids are text.

PostgreSQL raises an error if an integer column is compared with `abc`. So a query first checks whether the column can
hold the id (`can_hold`). If it cannot, no row has this id.
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
        columns: The reflected columns, by table and column name.
        is_sqlite: Whether the database is SQLite, where all integers have 64 bits regardless of the declared type.
    """

    def __init__(self, columns: dict[tuple[str, str], ReflectedColumn], *, is_sqlite: bool) -> None:
        self._columns = columns
        self._bits = 63 if is_sqlite else None

    @classmethod
    def of(cls, session: Session) -> "IdColumns":
        """The columns of the session's database, reflected once per engine.

        Raises:
            sqlalchemy.exc.DBAPIError: A table is missing.
        """
        engine = session.get_bind().engine
        if engine not in _known:
            _known[engine] = cls.reflect(session)
        return _known[engine]

    @classmethod
    def reflect(cls, session: Session) -> "IdColumns":
        """The columns, reflected again.

        Raises:
            sqlalchemy.exc.DBAPIError: A table is missing.
        """
        for table in (Course, Resource, Chunk):
            session.execute(select(col(table.id)).limit(0))
        schema = inspect(session.connection())
        columns = {(table, column["name"]): column for table in TABLES for column in schema.get_columns(table)}
        return cls(columns, is_sqlite=schema.dialect.name == "sqlite")

    def can_hold(self, table: str, column: str, value: str) -> bool:
        """Whether the column can hold the id and returns the same text.

        An integer column cannot hold `01`, because it would return `1`.
        """
        if not is_text(value):
            return False
        kind = self._columns[table, column]["type"]
        if isinstance(kind, Integer):
            limit = 2 ** (self._bits or _bits(kind))
            return _CANONICAL_INTEGER.fullmatch(value) is not None and -limit <= int(value) < limit
        return not isinstance(kind, Uuid) or _is_uuid(value)

    def kind(self, table: str, column: str) -> str:
        """The type of the column for messages: `an integer`, `a UUID` or `text`."""
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
    """Whether a query may compare the column with the value. If not, no row has this value.

    SQLite can compare values of any types, so this only rejects invalid text on SQLite.
    """
    if session.get_bind().dialect.name == "sqlite":
        return is_text(value)
    table_column = column.expression  # type: ignore[attr-defined]
    return IdColumns.of(session).can_hold(table_column.table.name, table_column.name, value)


def id_equals(column: Mapped[str], value: str | BindParameter[str]) -> ColumnElement[bool]:
    """A condition that is true for exactly this id.

    It compares in the column's type, to use the index, and as text, because `01` equals 1 in an integer column.
    """
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


def is_text(value: str) -> bool:
    """Whether a database can store the value as text: no NUL, no unpaired surrogate."""
    return "\0" not in value and is_unicode(value)
