"""Which numbers of numbers.yaml have a test named after them:  python -m tests.security.coverage

A name carries its numbers in front: `test_sec_001_…`, `test_f_04_…`, `test_sec_045_and_067_…`,
`test_sec_103_f_16_f_17_…`.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import yaml

HERE = Path(__file__).parent
TESTS = HERE.parent
_CLAIM = re.compile(r"test((?:_(?:and_)?(?:(?:sec_)?\d{3}|(?:f_)?\d{2})(?!\d))+)_[a-z]")
_NUMBER = re.compile(r"(?:(sec|f)_)?(\d{2,3})")


@dataclass(frozen=True, slots=True)
class Entry:
    title: str
    reason: str = ""  # why it cannot apply yet
    partly: str = ""  # what of it cannot
    until: str = ""  # the file or folder that ends either
    open: str = ""  # what its proof still misses


def numbers() -> dict[str, Entry]:
    read = yaml.safe_load((HERE / "numbers.yaml").read_text())
    return {
        name: Entry(**told) if isinstance(told, dict) else Entry(told)
        for name, told in read.items()
    }


def claims(name: str) -> set[str]:
    """The numbers that the name of a test carries."""
    found = _CLAIM.match(name)
    if not found or not found.group(1).startswith(("_sec_", "_f_")):
        return set()
    kind, said = "", set()
    for given, number in _NUMBER.findall(found.group(1)):
        kind = given or kind
        said.add(f"{kind.upper()}-{number}")
    return said


def tests() -> dict[str, list[str]]:
    """Number -> the tests that carry it, as file::name."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted(TESTS.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                for number in claims(node.name):
                    found[number].append(f"{path.relative_to(TESTS)}::{node.name}")
    return found


def main() -> None:
    have = tests()
    for number, entry in numbers().items():
        if not have.get(number) and not entry.reason:
            sys.stdout.write(f"{number}  {entry.title}  {entry.open}\n")


if __name__ == "__main__":
    main()
