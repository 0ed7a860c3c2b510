"""Add the table of the processes that execute runs. It belongs to this product."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

TABLE = "course_search_worker"


def upgrade() -> None:
    op.create_table(
        TABLE,
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("worker", sa.String(), nullable=False),
        sa.Column("beat_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("batches", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", name=f"{TABLE}_pkey"),
    )


def downgrade() -> None:
    op.drop_table(TABLE)
