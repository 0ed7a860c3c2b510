"""Add the table of the pipeline's counters. It belongs to this product."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

TABLE = "course_search_counter"


def upgrade() -> None:
    op.create_table(
        TABLE,
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("value", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=f"{TABLE}_pkey"),
    )


def downgrade() -> None:
    op.drop_table(TABLE)
