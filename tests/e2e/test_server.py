"""gunicorn as gunicorn.conf.py sets it up."""

import logging
import os
import runpy
import secrets
import subprocess
import sys

import pytest

from tests.e2e.gateway import ROOT


def test_a_weak_secret_ends_the_server_with_the_reason_and_a_status_of_its_own(tmp_path):
    settings = {
        "SECRET_KEY": secrets.token_urlsafe(32),
        "AUTH_ENCRYPTION_SECRET": "hunter2",
        "BIND": "127.0.0.1:0",
    }
    database = {"DATABASE_URL": f"sqlite:///{tmp_path}/gateway.db"}
    command = [sys.executable, "-m", "gunicorn", "wsgi:app"]
    env = os.environ | settings | database
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=30)
    assert done.returncode == os.EX_CONFIG
    assert "AUTH_ENCRYPTION_SECRET" in done.stderr and "secrets.token_urlsafe" in done.stderr
    assert "hunter2" not in done.stderr


def test_sync_workers_are_refused():
    command = [sys.executable, "-m", "gunicorn", "-k", "sync", "wsgi:app"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.returncode != 0 and "sync workers" in done.stderr


def test_threads_that_streams_would_take_whole_are_refused():
    command = [sys.executable, "-m", "gunicorn", "-k", "gthread", "--threads", "3", "wsgi:app"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.returncode != 0 and "--threads 4" in done.stderr


def test_gunicorn_reads_its_settings_from_files_too(monkeypatch, tmp_path, capsys):
    (tmp_path / "proxies").write_text("10.0.0.1, 10.0.0.2\n")
    monkeypatch.delenv("TRUSTED_PROXIES", raising=False)
    monkeypatch.setenv("TRUSTED_PROXIES_FILE", str(tmp_path / "proxies"))
    read = runpy.run_path(str(ROOT / "gunicorn.conf.py"))
    assert read["forwarded_allow_ips"] == "10.0.0.1,10.0.0.2"
    monkeypatch.setenv("TRUSTED_PROXIES_FILE", str(tmp_path / "nowhere"))
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "gunicorn.conf.py"))
    assert ended.value.code == os.EX_CONFIG
    assert "TRUSTED_PROXIES_FILE cannot be read" in capsys.readouterr().err


def test_sec_013_gunicorn_logs_no_query():
    without_query = runpy.run_path(str(ROOT / "gunicorn.conf.py"))["_without_query"]
    args = ("GET", "/oauth/callback?code=c0de&state=st4te")
    record = logging.LogRecord("x", 40, "f", 1, "Error handling request %s %s", args, None)
    assert without_query(record)
    assert record.getMessage() == "Error handling request GET /oauth/callback?…"
