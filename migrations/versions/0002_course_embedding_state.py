"""Add the embedding state to `course`: the three columns that other systems read.

Existing columns are not changed: stage one may have created them. For the same reason the downgrade keeps the columns,
with their values. A later upgrade uses them unchanged.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    existing = {column["name"] for column in sa.inspect(op.get_bind()).get_columns("course")}
    for column in _columns():
        if column.name not in existing:
            op.add_column("course", column)


def downgrade() -> None:
    pass


def _columns() -> list[sa.Column[Any]]:
    return [
        sa.Column("embedding_status", sa.String(), nullable=False, server_default=sa.text("'not_started'")),
        sa.Column("embedding_progress", sa.Float(), nullable=False, server_default=sa.text("0.0")),
        sa.Column("embedding_error", sa.Text(), nullable=True),
    ]
