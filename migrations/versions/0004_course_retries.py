"""Add the columns of retries, rebuilds and overdue courses to `course`.

Earlier versions marked a rebuild by an owner `rebuild-…`. Such a course was being rebuilt when that version stopped, so
its rebuild is requested again. They requested retries of failed courses, which are pending now, and recorded an owner
on every course of a waiting run.
"""

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for column in _columns():
        op.add_column("course", column)
    course = sa.table(
        "course",
        sa.column("embedding_status", sa.String()),
        sa.column("embedding_run_id", sa.String()),
        sa.column("embedding_requested_at", sa.DateTime(timezone=True)),
        sa.column("embedding_rebuild", sa.Boolean()),
        sa.column("embedding_due_since", sa.DateTime(timezone=True)),
    )
    is_failed_request = sa.and_(course.c.embedding_status == "failed", course.c.embedding_requested_at.is_not(None))
    op.execute(course.update().where(is_failed_request).values(embedding_status="pending", embedding_run_id=None))
    op.execute(course.update().where(course.c.embedding_status == "pending").values(embedding_run_id=None))
    op.execute(
        course.update()
        .where(course.c.embedding_run_id.like("rebuild-%"), course.c.embedding_status == "running")
        .values(
            embedding_status="pending",
            embedding_run_id=None,
            embedding_requested_at=datetime.now(UTC),
            embedding_rebuild=True,
        )
    )
    is_due = course.c.embedding_status.in_(["pending", "running", "failed"])
    op.execute(course.update().where(is_due).values(embedding_due_since=datetime.now(UTC)))


def downgrade() -> None:
    for column in reversed(_columns()):
        op.drop_column("course", column.name)


def _columns() -> list[sa.Column[Any]]:
    return [
        sa.Column("embedding_rebuild", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("embedding_attempts", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("embedding_retry_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("embedding_due_since", sa.DateTime(timezone=True), nullable=True),
    ]
