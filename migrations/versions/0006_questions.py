"""Add the tables of the questions that were asked and of the feedback on passages. Both belong to this product."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

TABLES = ("course_search_question", "course_search_feedback")


def upgrade() -> None:
    for table, columns in zip(TABLES, (_question_columns(), _feedback_columns()), strict=True):
        op.create_table(
            table,
            sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
            sa.Column("course_id", sa.String(), nullable=False),
            sa.Column("asked_at", sa.DateTime(timezone=True), nullable=False),
            sa.Column("text", sa.Text(), nullable=False),
            *columns,
            sa.PrimaryKeyConstraint("id", name=f"{table}_pkey"),
        )
        op.create_index(f"ix_{table}_course_id", table, ["course_id", "asked_at"])
        op.create_index(f"ix_{table}_asked_at", table, ["asked_at"])


def downgrade() -> None:
    for table in TABLES:
        op.drop_table(table)


def _question_columns() -> list[sa.Column[object]]:
    return [
        sa.Column("results", sa.Integer(), nullable=False),
        sa.Column("best_relevance", sa.Float()),
        sa.Column("answerable", sa.Boolean()),
        sa.Column("unknown_terms", sa.Text(), nullable=False),
    ]


def _feedback_columns() -> list[sa.Column[object]]:
    return [
        sa.Column("chunk_id", sa.String()),
        sa.Column("helpful", sa.Boolean(), nullable=False),
    ]
