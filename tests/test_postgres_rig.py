"""The tests' own PostgreSQL can crash and come back with its data."""

import psycopg
import pytest

from tests import postgres


def test_a_crashed_server_comes_back_with_what_was_committed():
    with postgres.server(fsync="on") as server:
        url = server.create("kept").replace("+psycopg", "")
        with psycopg.connect(url, autocommit=True) as link:
            link.execute("CREATE TABLE fact AS SELECT 1 AS one")
        server.crash()
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(url)
        server.start()
        with psycopg.connect(url) as link:
            assert link.execute("SELECT one FROM fact").fetchone() == (1,)
