"""Add the table of the files that were uploaded to this product. Each of them also has a row in stage one's `resource`.

The downgrade drops the table. Chunks of files that were read are kept, as stage one's would be. Files of which nothing
was read lose their row in `resource`, because nothing would ever finish them, and their course would wait for them.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

TABLE = "course_search_resource"


def upgrade() -> None:
    op.create_table(
        TABLE,
        sa.Column("resource_id", sa.String(), nullable=False),
        sa.Column("course_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("source_type", sa.String()),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("progress", sa.Float(), nullable=False),
        sa.Column("error", sa.Text()),
        sa.Column("chunks", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.String()),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        # `course_search_resource_pkey` is the key of `resource` (migration 0001)
        sa.PrimaryKeyConstraint("resource_id", name=f"{TABLE}_id_pkey"),
        sa.UniqueConstraint("course_id", "name", name=f"{TABLE}_name_key"),
    )
    op.create_index(f"ix_{TABLE}_status", TABLE, ["status"])


def downgrade() -> None:
    of_file = f"CAST(id AS VARCHAR) IN (SELECT resource_id FROM {TABLE} WHERE chunks"  # noqa: S608 - no input
    op.execute(f"DELETE FROM resource WHERE {of_file} = 0)")  # noqa: S608
    op.execute(f"UPDATE resource SET status = 'succeeded' WHERE {of_file} > 0)")  # noqa: S608
    op.drop_table(TABLE)
