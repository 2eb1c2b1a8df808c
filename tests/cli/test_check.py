"""flask check …"""

import json

import pytest

from app.models import CheckRun
from tests.conftest import rows
from tests.test_checks import CANARY, Rig
from tests.upstream import says, upstream
from tests.web.registry import CODE, SHARED

__all__ = ["upstream"]  # the fixture


@pytest.fixture
def rig(app, upstream):
    return Rig(app, upstream)


def run(rig, *args):
    return rig.app.test_cli_runner().invoke(args=["check", *args])


def test_what_works_is_exit_status_0(rig):
    rig.mcp = rig.wants_token
    ran = run(rig, rig.add(SHARED))
    assert ran.exit_code == 0, ran.output
    lines = ran.output.splitlines()
    assert lines[1] == "ok      1 Find the server: 127.0.0.1"
    assert lines[-1].startswith("Ready. ") and CANARY not in ran.output


def test_what_fails_is_exit_status_1_with_what_to_do(rig):
    rig.token = lambda seen: says({"error": "invalid_client"}, 401)
    ran = run(rig, rig.add(SHARED))
    assert ran.exit_code == 1
    assert "FAILED  4 Get a token: Wrong client ID or secret" in ran.output
    assert "Code: client_rejected" in ran.output
    assert ran.output.splitlines()[-1].startswith("Stopped at step 4 of 7.")


def test_a_personal_gateway_is_good_as_far_as_a_command_can_see(rig):
    rig.token = lambda seen: says({"error": "invalid_grant"}, 400)
    ran = run(rig, rig.add(CODE))
    assert ran.exit_code == 0 and "waits   5 Check granted scopes" in ran.output


def test_programs_get_one_json_object(rig):
    rig.token = lambda seen: says({"error": "invalid_client"}, 401)
    ran = run(rig, rig.add(SHARED), "--json")
    said = json.loads(ran.output)
    assert ran.exit_code == 1 and said["code"] == "client_rejected"
    assert said["id"] == rows(rig.app, CheckRun)[0].id


def test_an_unknown_gateway_is_exit_status_2(rig):
    ran = run(rig, "nowhere")
    assert ran.exit_code == 2 and "There is no gateway called nowhere" in ran.output
