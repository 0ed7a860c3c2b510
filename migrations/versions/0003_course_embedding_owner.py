"""Add the internal columns to `course`: owner, request, generation, attempted and published fingerprint.

The downgrade sets running courses to `not_started`: without an owner, nothing would ever end the state `running`.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for column in _columns():
        op.add_column("course", column)


def downgrade() -> None:
    op.execute(
        "UPDATE course SET embedding_status = 'not_started', embedding_progress = 0.0 "
        "WHERE embedding_status = 'running'"
    )
    for column in reversed(_columns()):
        op.drop_column("course", column.name)


def _columns() -> list[sa.Column[Any]]:
    return [
        sa.Column("embedding_run_id", sa.String(), nullable=True),
        sa.Column("embedding_requested_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("embedding_generation", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("embedding_attempted", sa.String(), nullable=True),
        sa.Column("embedding_fingerprint", sa.String(), nullable=True),
    ]
