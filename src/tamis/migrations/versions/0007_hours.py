"""Decisions counted by the hour, how a bundle in shadow judges, and what people did in the console."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.create_table(
        "hours",
        sa.Column("kind", sa.String(16), primary_key=True),
        sa.Column("hour", sa.String(13), primary_key=True),
        sa.Column("name", sa.String(200), primary_key=True),
        sa.Column("rows", sa.Integer, nullable=False),
    )
    pair = [sa.Column(name, sa.String(64), primary_key=True) for name in ("live", "shadow")]
    op.create_table(
        "shadow_counts",
        *pair,
        sa.Column("live_action", sa.String(16), primary_key=True),
        sa.Column("shadow_action", sa.String(16), primary_key=True),
        sa.Column("rows", sa.Integer, nullable=False),
    )
    op.create_table(
        "shadow_differences",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("live", sa.String(64), nullable=False),
        sa.Column("shadow", sa.String(64), nullable=False),
        sa.Column("content", sa.String(64), nullable=False),
        sa.Column("time", sa.String(32), nullable=False),
        sa.Column("live_action", sa.String(16), nullable=False),
        sa.Column("shadow_action", sa.String(16), nullable=False),
        sa.Column("live_category", sa.String(64), nullable=False),
        sa.Column("shadow_category", sa.String(64), nullable=False),
        sa.Column("live_risk", sa.Float),
        sa.Column("shadow_risk", sa.Float),
    )
    op.create_table(
        "acts",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("time", sa.String(32), nullable=False),
        sa.Column("user", sa.String(64), nullable=False),
        sa.Column("what", sa.String(16), nullable=False),
        sa.Column("about", sa.Text, nullable=False),
    )
    op.create_index("ix_shadow_differences_pair", "shadow_differences", ["live", "shadow", "number"])


def downgrade() -> None:
    for table in ("acts", "shadow_differences", "shadow_counts", "hours"):
        op.drop_table(table)
