"""What servers and providers say of themselves, drafts of gateways, checks and their outcome.

The previous release runs on it: what it does not name is NULL or has a default here. NULL in
`discovered`: metadata was never read; in `health`: nobody looked yet.
"""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0003", "0002"


def new_columns() -> dict[str, list[sa.Column]]:
    """Made anew each time: a column belongs to one table."""
    return {
        "gateway": [
            sa.Column("health", sa.String(length=16), nullable=True),
            sa.Column("health_ms", sa.BigInteger(), nullable=True),
            sa.Column("health_code", sa.String(length=40), nullable=True),
            sa.Column("health_next_ms", sa.BigInteger(), nullable=False, server_default="0"),
            sa.Column("health_fails", sa.Integer(), nullable=False, server_default="0"),
            sa.Column("probes_client", sa.Boolean(), nullable=False, server_default=sa.true()),
        ],
        "oauth_config": [
            sa.Column("discovered", sa.JSON(), nullable=True),
            sa.Column("tool_patterns", sa.JSON(), nullable=True),
            sa.Column("asked_ms", sa.BigInteger(), nullable=False, server_default="0"),
            sa.Column("awaits", sa.JSON(), nullable=True),
            sa.Column("template", sa.String(length=40), nullable=True),
            sa.Column("template_version", sa.Integer(), nullable=True),
        ],
        "client_registration": [
            sa.Column("public_jwk", sa.JSON(), nullable=True),
            sa.Column("registered_ms", sa.BigInteger(), nullable=True),
            sa.Column("probed_ms", sa.BigInteger(), nullable=False, server_default="0"),
        ],
        "revocation": [
            sa.Column("private_key_sealed", sa.Text(), nullable=True),
            sa.Column("assertion_alg", sa.String(length=10), nullable=True),
            sa.Column("assertion_audience", sa.String(length=2048), nullable=True),
        ],
        "flow": [sa.Column("target", sa.String(length=500), nullable=True)],
    }


def upgrade() -> None:
    for table, columns in new_columns().items():
        with op.batch_alter_table(table, schema=None) as batch_op:
            for column in columns:
                batch_op.add_column(column)
    op.create_table(
        "gateway_draft",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("user_id", sa.String(length=32), nullable=False),
        sa.Column("record", sa.JSON(), nullable=False),
        sa.Column("found", sa.JSON(), nullable=False),
        sa.Column("is_kept", sa.Boolean(), nullable=False),
        sa.Column("updated_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["user_id"],
            ["user_account.id"],
            name=op.f("fk_gateway_draft_user_id_user_account"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_gateway_draft")),
    )
    op.create_table(
        "check_run",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("gateway_id", sa.String(length=32), nullable=False),
        sa.Column("user_id", sa.String(length=32), nullable=True),
        sa.Column("state", sa.String(length=10), nullable=False),
        sa.Column("outcome", sa.String(length=10), nullable=True),
        sa.Column("code", sa.String(length=40), nullable=True),
        sa.Column("steps", sa.JSON(), nullable=False),
        sa.Column("started_ms", sa.BigInteger(), nullable=False),
        sa.Column("ended_ms", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["gateway_id"],
            ["gateway.id"],
            name=op.f("fk_check_run_gateway_id_gateway"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_check_run")),
    )
    with op.batch_alter_table("check_run", schema=None) as batch_op:
        batch_op.create_index("ix_check_run_gateway_id", ["gateway_id", "started_ms"], unique=False)


def downgrade() -> None:
    op.drop_table("check_run")
    op.drop_table("gateway_draft")
    for table, columns in new_columns().items():
        with op.batch_alter_table(table, schema=None) as batch_op:
            for column in columns:
                batch_op.drop_column(column.name)
