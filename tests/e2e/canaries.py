"""Marked secrets, and every place where a program may have left one."""

from __future__ import annotations

import base64
import html
import json
import os
import secrets
import subprocess
import urllib.parse
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests import postgres


class Canaries(dict[str, str]):
    """Secrets by name. What a server makes by itself is added when it is first seen."""

    def mark(self, name: str, *, odd: bool = False) -> str:
        """A new one. `odd`: with characters that look different in a URL, in HTML and in JSON."""
        text = f"canary-{name.replace(' ', '-')}-{secrets.token_hex(8)}"
        self[f"{name} {len(self)}"] = f'{text}+&/"<é' if odd else text
        return next(reversed(self.values()))

    def note(self, name: str, value: str) -> str:
        assert len(value) >= 8, "too short to be found without doubt"
        self[f"{name} {len(self)}"] = value
        return value


def forms(secret: str) -> set[bytes]:
    """How it could be written: as it is, in a URL, in HTML, in JSON, as hex, inside Base64."""
    raw = secret.encode()
    texts = {secret, urllib.parse.quote(secret, safe=""), urllib.parse.quote_plus(secret)}
    texts |= {urllib.parse.quote(secret), html.escape(secret), json.dumps(secret)[1:-1]}
    found = {text.encode() for text in texts} | {raw.hex().encode(), raw.hex().upper().encode()}
    for before in range(3):  # bytes of something else in front of it
        padded = b"\0" * before + raw
        first, last = -(-before * 8 // 6), len(padded) * 8 // 6
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            found.add(encode(padded)[first:last])
    return found


def hits(canaries: dict[str, str], places: dict[str, Iterable[bytes]]) -> list[str]:
    """Where which of them was found. Pages share most of their lines: each is read once."""
    looked_for = {name: forms(secret) for name, secret in canaries.items()}
    found = []
    for place, texts in places.items():
        lines = b"\n".join({line for text in texts for line in text.split(b"\n")})
        for name, spellings in looked_for.items():
            if any(one in lines for one in spellings):
                found.append(f"{name} in {place}")
    return sorted(found)


# -- places ----------------------------------------------------------------------------------------


def processes(pid: int) -> set[int]:
    """This one and all that came from it, as far as they run."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue  # it has just ended
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    family, grown = {pid}, True
    while grown:
        more = {one for one, parent in parents.items() if parent in family} - family
        family, grown = family | more, bool(more)
    return family


def command_line(pid: int) -> bytes:
    """As anybody on the machine can read it."""
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def files(*folders: Path) -> Iterator[bytes]:
    """The content of every file below, and its name."""
    for folder in folders:
        for path in folder.rglob("*"):
            yield os.fsencode(path)
            if path.is_file() and not path.is_symlink():
                yield path.read_bytes()


def dump(url: str) -> bytes:
    """All that a backup of PostgreSQL holds."""
    plain = url.replace("+psycopg", "")
    done = subprocess.run(
        [postgres.program("pg_dump"), plain], capture_output=True, check=True, cwd="/"
    )
    return done.stdout
