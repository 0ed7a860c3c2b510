"""Add the index of embedded texts. It belongs to this product, and runs fill it from the catalogue."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

TABLE = "course_search_embedded_text"


def upgrade() -> None:
    op.create_table(
        TABLE,
        sa.Column("course_id", sa.String(), nullable=False),
        sa.Column("chunk_id", sa.String(), nullable=False),
        sa.Column("text_key", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("course_id", "chunk_id", name=f"{TABLE}_pkey"),
    )
    op.create_index(f"ix_{TABLE}_text_key", TABLE, ["text_key"])


def downgrade() -> None:
    op.drop_table(TABLE)
