"""Revocations that wait, chores of which one node has each, a chain of audit events, limits.

The previous release runs on it: what it does not name is NULL or has a default here. NULL in `seq`
and `link`: from before there was a chain; in the `*_pem` columns and `client_key_sealed`: none.
"""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0002", "0001"


def upgrade() -> None:
    op.create_table(
        "audit_head",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("head_sealed", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_head")),
    )
    op.create_table(
        "chore",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("holder", sa.String(length=64), nullable=True),
        sa.Column("lease_ms", sa.BigInteger(), nullable=False),
        sa.Column("due_ms", sa.BigInteger(), nullable=False),
        sa.Column("ran_ms", sa.BigInteger(), nullable=True),
        sa.Column("outcome", sa.String(length=200), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_chore")),
    )
    op.create_table(
        "key_holder",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("host", sa.String(length=64), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("active_key", sa.String(length=32), nullable=False),
        sa.Column("key_ids", sa.JSON(), nullable=False),
        sa.Column("seen_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_key_holder")),
    )
    op.create_table(
        "rate_window",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("window_ms", sa.BigInteger(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", "window_ms", name=op.f("pk_rate_window")),
    )
    op.create_table(
        "revocation",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("connection_id", sa.String(length=32), nullable=False),
        sa.Column("user_id", sa.String(length=32), nullable=True),
        sa.Column("gateway_id", sa.String(length=32), nullable=False),
        sa.Column("gateway_name", sa.String(length=100), nullable=False),
        sa.Column("style", sa.String(length=10), nullable=False),
        sa.Column("url", sa.String(length=2048), nullable=False),
        sa.Column("ends_all_at", sa.String(length=2048), nullable=True),
        sa.Column("client_id", sa.String(length=2048), nullable=False),
        sa.Column("client_secret_sealed", sa.Text(), nullable=True),
        sa.Column("auth_method", sa.String(length=30), nullable=False),
        sa.Column("ca_pem", sa.Text(), nullable=True),
        sa.Column("client_cert_pem", sa.Text(), nullable=True),
        sa.Column("client_key_sealed", sa.Text(), nullable=True),
        sa.Column("refresh_token_sealed", sa.Text(), nullable=True),
        sa.Column("access_token_sealed", sa.Text(), nullable=True),
        sa.Column("state", sa.String(length=10), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("attempt_id", sa.String(length=32), nullable=True),
        sa.Column("lease_ms", sa.BigInteger(), nullable=False),
        sa.Column("not_before_ms", sa.BigInteger(), nullable=False),
        sa.Column("last_error_code", sa.String(length=40), nullable=True),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("ended_at", sa.DateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_revocation")),
    )
    with op.batch_alter_table("revocation", schema=None) as batch_op:
        batch_op.create_index("ix_revocation_not_before_ms", ["not_before_ms"], unique=False)

    with op.batch_alter_table("audit_event", schema=None) as batch_op:
        batch_op.add_column(sa.Column("seq", sa.BigInteger(), nullable=True))
        batch_op.add_column(sa.Column("link", sa.String(length=64), nullable=True))
        batch_op.add_column(sa.Column("gateway_id", sa.String(length=32), nullable=True))
        batch_op.add_column(sa.Column("person_id", sa.String(length=32), nullable=True))
        batch_op.create_index(
            "ix_audit_event_subject", ["subject_kind", "subject_id", "at"], unique=False
        )
        batch_op.create_index("ix_audit_event_seq", ["seq"], unique=True)
        batch_op.create_index("ix_audit_event_gateway_id", ["gateway_id", "seq"], unique=False)
        batch_op.create_index("ix_audit_event_person_id", ["person_id", "seq"], unique=False)

    with op.batch_alter_table("connection", schema=None) as batch_op:
        batch_op.add_column(
            sa.Column("state_ms", sa.BigInteger(), nullable=False, server_default="0")
        )
        batch_op.add_column(sa.Column("failing_ms", sa.BigInteger(), nullable=True))
        batch_op.add_column(
            sa.Column("refused_count", sa.Integer(), nullable=False, server_default="0")
        )
        batch_op.add_column(sa.Column("refused_ms", sa.BigInteger(), nullable=True))

    with op.batch_alter_table("gateway", schema=None) as batch_op:
        batch_op.add_column(sa.Column("ca_pem", sa.Text(), nullable=True))
        batch_op.add_column(sa.Column("client_cert_pem", sa.Text(), nullable=True))
        batch_op.add_column(sa.Column("client_key_sealed", sa.Text(), nullable=True))

    with op.batch_alter_table("oauth_config", schema=None) as batch_op:
        batch_op.add_column(
            sa.Column(
                "trusts_shared_callback", sa.Boolean(), nullable=False, server_default=sa.false()
            )
        )
        batch_op.add_column(
            sa.Column("callback_since_ms", sa.BigInteger(), nullable=False, server_default="0")
        )


def downgrade() -> None:
    with op.batch_alter_table("oauth_config", schema=None) as batch_op:
        batch_op.drop_column("callback_since_ms")
        batch_op.drop_column("trusts_shared_callback")

    with op.batch_alter_table("gateway", schema=None) as batch_op:
        batch_op.drop_column("client_key_sealed")
        batch_op.drop_column("client_cert_pem")
        batch_op.drop_column("ca_pem")

    with op.batch_alter_table("connection", schema=None) as batch_op:
        batch_op.drop_column("refused_ms")
        batch_op.drop_column("refused_count")
        batch_op.drop_column("failing_ms")
        batch_op.drop_column("state_ms")

    with op.batch_alter_table("audit_event", schema=None) as batch_op:
        batch_op.drop_index("ix_audit_event_person_id")
        batch_op.drop_index("ix_audit_event_gateway_id")
        batch_op.drop_index("ix_audit_event_seq")
        batch_op.drop_index("ix_audit_event_subject")
        batch_op.drop_column("person_id")
        batch_op.drop_column("gateway_id")
        batch_op.drop_column("link")
        batch_op.drop_column("seq")

    with op.batch_alter_table("revocation", schema=None) as batch_op:
        batch_op.drop_index("ix_revocation_not_before_ms")

    op.drop_table("revocation")
    op.drop_table("rate_window")
    op.drop_table("key_holder")
    op.drop_table("chore")
    op.drop_table("audit_head")
