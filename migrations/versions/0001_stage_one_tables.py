"""Create stage one's tables if they do not exist.

Stage one owns `course`, `resource` and `chunk`. Existing tables are not changed. If a table is missing, a minimal one
is created, so that the product works without stage one.

The downgrade never loses data: it drops a table only if the table is empty and this migration created it, which the
name of the primary key shows. A table with rows is kept, and a later upgrade uses it unchanged.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    inspector = sa.inspect(op.get_bind())
    if not inspector.has_table("course"):
        op.create_table("course", sa.Column("id", sa.String(), nullable=False), _key("course"))
    if not inspector.has_table("resource"):
        op.create_table(
            "resource",
            sa.Column("id", sa.String(), nullable=False),
            sa.Column("course_id", sa.String(), nullable=False),
            sa.Column("status", sa.String(), nullable=False),
            _key("resource"),
        )
        op.create_index("ix_resource_course_id", "resource", ["course_id"])
    if not inspector.has_table("chunk"):
        op.create_table(
            "chunk",
            sa.Column("id", sa.String(), nullable=False),
            sa.Column("course_id", sa.String(), nullable=False),
            sa.Column("lecture_id", sa.String()),
            sa.Column("section_id", sa.String()),
            sa.Column("text", sa.Text(), nullable=False),
            sa.Column("language", sa.String()),
            sa.Column("source_type", sa.String()),
            sa.Column("metadata", sa.JSON()),
            _key("chunk"),
        )
        op.create_index("ix_chunk_course_id", "chunk", ["course_id"])


def downgrade() -> None:
    connection = op.get_bind()
    inspector = sa.inspect(connection)
    for table in ("chunk", "resource", "course"):
        if not inspector.has_table(table) or inspector.get_pk_constraint(table)["name"] != _key(table).name:
            continue
        if connection.execute(sa.select(sa.literal(1)).select_from(sa.table(table)).limit(1)).first() is None:
            op.drop_table(table)


def _key(table: str) -> sa.PrimaryKeyConstraint:
    return sa.PrimaryKeyConstraint("id", name=f"course_search_{table}_pkey")
