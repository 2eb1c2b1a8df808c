"""Where requests come from, and where a browser may be sent."""

import dataclasses
import re

import pytest

from app import create_app
from app.db import db
from app.web import where

HOSTILE = [
    prefix + host + rest
    for prefix in (
        *("//", "///", "////", "\\\\", "/\\", "\\/", "/\\/", "\\\\/", "/%09/", "/\t/", "/\n/"),
        *(
            "/\r\n/",
            "http://",
            "https://",
            "https:",
            "http:/",
            "https:///",
            "//;@",
            "/.//",
            "/..//",
        ),
        *("javascript://", "data:text/html,", "ftp://", "/ /", "/\x00/", "\t//", " //", "\u2028//"),
        *("//%5c", "/%5c/", "/\u3000/", "//gw.test@", "//gw.test:443@", "https://gw.test@", "@"),
        *("/\x0b/", "/\x85/", "\x1f//", "/a//", "/login?next=//", "./", "../", "?//", "#//", ""),
    )
    for host in ("evil.test", "3627734734", "[::1]", "evil。test", "evil.test%00.gw.test")
    for rest in ("", "/", "/%2e%2e", "?x=//evil.test")
]


def as_browsers_read(url):
    """A browser drops tabs and line ends, and takes a backslash for a slash."""
    return re.sub(r"[\t\r\n]", "", url.strip("".join(map(chr, range(33))))).replace("\\", "/")


def test_sec_029_next_never_leaves_our_origin():
    assert len(HOSTILE) > 559
    for url in HOSTILE:
        path = as_browsers_read(where.own_path(url))
        assert path.startswith("/") and not path.startswith("//"), url
        assert "//" not in path.partition("?")[0] and path.isascii(), url


@pytest.mark.parametrize("path", ["/", "/tools?gateway=jira&q=a%20b", "/connections/jira?ask=x.y"])
def test_sec_029_an_ordinary_path_is_kept(path):
    assert where.own_path(path) == path


@pytest.mark.parametrize("path", ["/login", "/login?next=/me", "/logout", "/setup", None, ""])
def test_nobody_ends_up_at_the_sign_in_again(path):
    assert where.own_path(path) == "/"


@pytest.mark.parametrize(
    ("peer", "said", "seen"),
    [
        ("10.0.0.9", "203.0.113.7", "203.0.113.7"),
        ("10.0.0.9", "6.6.6.6, 203.0.113.7", "203.0.113.7"),
        ("10.0.0.9", "6.6.6.6, 203.0.113.7, 10.0.0.8", "203.0.113.7"),
        ("10.0.0.9", "2001:db8::7", "2001:db8::7"),
        ("10.0.0.9", "rubbish", "10.0.0.9"),
        ("10.0.0.9", "6.6.6.6, rubbish", "10.0.0.9"),
        ("10.0.0.9", "", "10.0.0.9"),
        ("10.0.0.9", "10.0.0.8", "10.0.0.8"),
        ("192.0.2.1", "203.0.113.7", "192.0.2.1"),
    ],
)
def test_sec_037_forwarded_addresses_count_only_from_our_proxies(config, peer, said, seen):
    app = create_app(dataclasses.replace(config, TRUSTED_PROXIES=("10.0.0.0/8",)))
    request = {"environ_base": {"REMOTE_ADDR": peer}, "headers": {"X-Forwarded-For": said}}
    with app.test_request_context("/", **request):
        assert where.address() == seen
        db.engine.dispose()
