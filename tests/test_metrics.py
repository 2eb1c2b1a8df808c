"""How the workers of a server tell each other's counts."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import pytest
from flask import current_app

from app import metrics
from tests.process import Program

KEY = ("mcp_calls_total", "acme", "ok")
FAMILY = str(os.getpid())


@pytest.fixture
def workers(start, config, tmp_path):
    """Two of one server; each is a context."""
    two = [start(config) for _ in range(2)]
    for app in two:
        with app.app_context():
            metrics.join(FAMILY)
    return [app.app_context for app in two]


def counted() -> int:
    return metrics.meter().all()[KEY]


def test_each_tells_what_all_have_counted(workers):
    one, other = workers
    for number, worker in enumerate(workers, 1):
        with worker():
            for _ in range(number):
                metrics.call("acme", "ok")
            metrics.share()
    for worker in workers:
        with worker():
            assert counted() == 3
    with other():
        metrics.call("acme", "ok")
        assert counted() == 4  # its own at once
    with one():
        assert counted() == 3  # the other's once they are shared


def test_what_a_worker_counted_outlives_it(workers):
    one, other = workers
    for worker in workers:
        with worker():
            metrics.call("acme", "ok")
            metrics.leave()
    with one():
        metrics.join(FAMILY)
        metrics.meter().counts.clear()  # as the one that comes after it
        assert counted() == 2


def test_threads_lose_no_count(workers):
    def count() -> None:
        with workers[0]():
            for _ in range(2000):
                metrics.call("acme", "ok")

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with workers[0]():
        assert counted() == 8000


def test_what_servers_left_that_run_no_more_is_removed(app, tmp_path):
    with Program(["true"]) as program:
        program.stop()
    host = os.uname().nodename
    gone, alive, elsewhere = (f"{host} {program.pid}", f"{host} {os.getppid()}", "other.test 1")
    for name in (gone, alive, elsewhere, "notes"):
        (tmp_path / "metrics" / name).mkdir(parents=True)
    with app.app_context():
        metrics.join(FAMILY)
    left = {path.name for path in (tmp_path / "metrics").iterdir()}
    assert left == {alive, elsewhere, "notes", f"{host} {FAMILY}"}
    assert (tmp_path / "metrics" / f"{host} {FAMILY}").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("text", ["", "{", '[["mcp_calls_total", "acme"', "[1]"])
def test_a_damaged_file_of_a_sibling_costs_its_counts_only(workers, text):
    with workers[0]():
        metrics.call("acme", "ok")
        folder = metrics.meter().folder
        (folder / "1-damaged.json").write_text(text)
        assert counted() == 1


def test_a_folder_that_is_gone_costs_the_counts_of_the_others_only(workers, caplog):
    """What watches is not answered 500."""
    one, other = workers
    for worker in workers:
        with worker():
            metrics.call("acme", "ok")
            metrics.share()
    with one():
        shutil.rmtree(metrics.meter().folder)
        here = {"base_url": "http://127.0.0.1:8000"}
        said = current_app.test_client().get("/metrics", **here)
    assert said.status_code == 200
    assert 'mcp_calls_total{gateway="acme",outcome="ok"} 1\n' in said.text
    assert "metrics of other workers cannot be read" in caplog.text


def test_without_a_place_for_files_each_answers_for_itself(app, tmp_path, caplog):
    Path(tmp_path / "metrics").write_text("in the way")
    with app.app_context():
        metrics.join(FAMILY)
        metrics.call("acme", "ok")
        metrics.share()
        assert counted() == 1
        metrics.leave()
    assert "metrics cannot be shared" in caplog.text
