"""Who may sign in to the console, as what, and who has; and what each of them holds of the queue."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.create_table(
        "users",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("digest", sa.String(200), nullable=False),
        sa.Column("created", sa.String(32), nullable=False),
        sa.Column("language", sa.String(8), nullable=False),
        sa.Column("theme", sa.String(8), nullable=False),
        sa.Column("blur", sa.Boolean, nullable=False),
        sa.Column("shortcuts", sa.Boolean, nullable=False),
    )
    op.create_table(
        "sessions",
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("user", sa.String(64), nullable=False, index=True),
        sa.Column("csrf", sa.String(64), nullable=False),
        sa.Column("until", sa.String(32), nullable=False),
        sa.Column("said", sa.Text),
    )
    op.create_index("ix_review_items_held", "review_items", ["held_by"])


def downgrade() -> None:
    op.drop_index("ix_review_items_held", "review_items")
    op.drop_table("sessions")
    op.drop_table("users")
