"""What people are asked about and what they say; and what is counted of each text that is decided about."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("decisions", sa.Column("signals", sa.Text))
    op.create_index("ix_decisions_time", "decisions", ["time"])
    op.create_table(
        "review_items",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("decision", sa.String(32), index=True),
        sa.Column("content", sa.String(64), nullable=False, index=True),
        sa.Column("cause", sa.String(16), nullable=False),
        sa.Column("category", sa.String(64), nullable=False),
        sa.Column("language", sa.String(8), nullable=False),
        sa.Column("risk", sa.Float, nullable=False),
        sa.Column("priority", sa.Float, nullable=False),
        sa.Column("created", sa.String(32), nullable=False),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("held_by", sa.String(64)),
        sa.Column("held_until", sa.String(32)),
        sa.Column("earlier", sa.String(32), index=True),
        sa.Column("not_for", sa.String(64)),
        sa.Column("truth", sa.String(400)),
        sa.Column("text", sa.Text),
    )
    op.create_index("ix_review_items_queue", "review_items", ["state", "priority"])
    op.create_table(
        "review_verdicts",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("item", sa.String(32), nullable=False, index=True),
        sa.Column("reviewer", sa.String(64), nullable=False),
        sa.Column("time", sa.String(32), nullable=False),
        sa.Column("verdict", sa.String(400)),
        sa.Column("outcome", sa.String(16)),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("batch", sa.String(32), index=True),
        sa.Column("replaces", sa.Integer, unique=True),
    )
    op.create_index("ix_review_verdicts_reviewer", "review_verdicts", ["reviewer", "time"])
    op.create_table(
        "review_skips",
        sa.Column("item", sa.String(32), primary_key=True),
        sa.Column("reviewer", sa.String(64), primary_key=True),
    )


def downgrade() -> None:
    for table in ("review_skips", "review_verdicts", "review_items"):
        op.drop_table(table)
    op.drop_index("ix_decisions_time", "decisions")
    op.drop_column("decisions", "signals")
