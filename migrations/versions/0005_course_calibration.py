"""Add the calibration of a published course to `course`."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("course", sa.Column("embedding_calibration", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("course", "embedding_calibration")
