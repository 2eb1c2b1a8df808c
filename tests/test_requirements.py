"""What is installed is pinned, by hash, and not below a fixed vulnerability."""

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
RIGS = "tests/e2e/rigs"
FILES = [
    "requirements.txt",
    "requirements-dev.txt",
    f"{RIGS}/requirements.txt",
    f"{RIGS}/requirements-node.txt",
    "tests/lint/requirements.txt",
]
# Fixed vulnerabilities; raise these with the pins, never lower them.
FLOORS = {
    "authlib": "1.7.1",  # GHSA-jj8c-mmj3-mmgv, CVE-2026-41479, CVE-2026-44681
    "oauthlib": "3.2.2",  # CVE-2022-36087
    "urllib3": "2.6.3",  # CVE-2025-66418, CVE-2025-66471, CVE-2026-21441
    "werkzeug": "3.1.6",  # GHSA-29vq-49wr-vm6x
    "flask": "3.1.3",  # CVE-2026-27205
    "gunicorn": "26.1",  # duplicate Host headers
    "requests": "2.32.4",  # CVE-2024-47081
}


def pins(name: str) -> dict[str, Version]:
    found = re.findall(r"^([\w.-]+)==(\S+)", (ROOT / name).read_text(), re.M)
    return {canonicalize_name(package): Version(version) for package, version in found}


@pytest.mark.parametrize("name", FILES)
def test_every_package_is_pinned_with_hashes_and_from_nowhere_in_particular(name):
    text = re.sub(r"^\s*#.*\n", "", (ROOT / name).read_text(), flags=re.M)
    entries = text.replace("\\\n", " ").splitlines()
    assert entries
    for entry in entries:
        assert re.fullmatch(r"[\w.-]+==\S+(\s+;.+?)?(\s+--hash=sha256:[0-9a-f]{64})+\s*", entry)


def test_the_pins_are_what_the_project_asks_for():
    asked = [Requirement(text) for text in PROJECT["dependencies"]]
    assert {r.name for r in asked} <= pins("requirements.txt").keys()
    for requirement in asked:
        assert pins("requirements.txt")[requirement.name] in requirement.specifier


def test_tests_run_on_the_versions_of_production():
    assert pins("requirements.txt").items() <= pins("requirements-dev.txt").items()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(("package", "floor"), FLOORS.items())
def test_sec_121_no_pin_is_below_a_fixed_vulnerability(package, floor, name):
    pinned = pins(name).get(package)
    assert pinned is None or pinned >= Version(floor)


def test_sec_121_every_floor_is_one_of_what_runs_in_production():
    to_come = {"authlib"}  # with the OAuth server for AI clients
    assert FLOORS.keys() - pins("requirements.txt").keys() == to_come


@pytest.mark.parametrize("package", FLOORS)
def test_sec_121_what_is_installed_here_is_what_is_pinned(package):
    pinned = pins("requirements.txt").get(package)
    assert pinned is None or Version(importlib.metadata.version(package)) == pinned


def test_the_npm_lock_names_no_host():
    assert "resolved" not in (ROOT / RIGS / "package-lock.json").read_text()
