"""`make demo`, from the first line to Ctrl-C."""

import re
import shlex
import signal
import socket
import subprocess
import sys

from tests.e2e.gateway import ROOT
from tests.process import Program


def run_demo(folder) -> Program:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "demo", "--port", str(port), "--folder", folder]
    return Program(command, end=signal.SIGINT, cwd=ROOT)


def run_line(line: str) -> str:
    return subprocess.run(shlex.split(line), capture_output=True, text=True, check=True).stdout


def test_the_printed_curl_lines_name_the_person_and_the_service_account(tmp_path):
    for _ in range(2):  # the second time on the folder that the first one left
        with run_demo(tmp_path) as demo:
            demo.wait_for("Ctrl-C ends everything", wait=120)
            person, robot = re.findall(r"^\s*(curl .+)$", demo.log(), re.M)
            assert "You are Ana Example" in run_line(person)
            assert "You are Notes robot" in run_line(robot)
            assert demo.stop() == 0
    assert "Traceback" not in (tmp_path / "gateway.log").read_text()


def test_a_port_in_use_is_said_so(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        command = [sys.executable, "-m", "demo", "--port", port, "--folder", tmp_path]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1 and f"make demo PORT={int(port) + 1}" in done.stderr
