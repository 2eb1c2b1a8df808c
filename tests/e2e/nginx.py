"""deploy/nginx.conf in a real nginx, in front of a real node."""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.e2e.gateway import ROOT, Gateway
from tests.process import Program

MAIN = """
{user}
daemon off;
worker_processes 1;
worker_rlimit_nofile 8192;
pid {folder}/pid;
error_log stderr notice;
events {{ worker_connections 6000; }}
http {{
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/gateway.conf;
}}
"""


class Front(NamedTuple):
    https: str  # origin
    http: str
    folder: Path
    node: Gateway

    @property
    def port(self) -> int:
        return int(self.https.rpartition(":")[2])

    @property
    def certificate(self) -> Path:
        return self.folder / "cert.pem"


@contextlib.contextmanager
def in_front(folder: Path, *, patience: str = "", **settings: Any) -> Iterator[Front]:
    """nginx, and one node behind it, on SQLite. `patience`: how long nginx waits for a request."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    assert program, "nginx is missing: apt-get install nginx-light"
    plain, https = free_port(), free_port()
    origin = f"https://localhost:{https}"
    ours = {"PUBLIC_URL": origin, "TRUSTED_PROXIES": "127.0.0.1", **settings}
    with Gateway(f"sqlite:///{folder}/gateway.db", **ours) as node:
        make_certificate(folder)
        conf = adapted(folder, node.url.removeprefix("http://"), plain, https)
        if patience:
            conf = re.sub(r"(client_\w+_timeout) \w+;", rf"\1 {patience};", conf)
        (folder / "gateway.conf").write_text(conf)
        user = "" if os.geteuid() else "user root;"  # else its worker cannot write to our folder
        (folder / "main.conf").write_text(MAIN.format(folder=folder, user=user))
        command = [program, "-c", folder / "main.conf", "-e", "stderr"]
        with Program(command, end=signal.SIGTERM) as running:
            running.wait_for("start worker process ")
            yield Front(origin, f"http://localhost:{plain}", folder, node)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def make_certificate(folder: Path) -> None:
    """For localhost, by itself, for a day."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    pem = serialization.Encoding.PEM
    (folder / "cert.pem").write_bytes(made.public_bytes(pem))
    (folder / "key.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
    )


def has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return True
    return False


def adapted(folder: Path, node: str, plain: int, https: int) -> str:
    """The shipped file, with the three places marked HERE and the addresses made ours."""
    text = (ROOT / "deploy" / "nginx.conf").read_text()
    six = r"listen [::1]:{} " if has_ipv6() else "# {} "
    for pattern, new in (
        (r"gateway\.example\.com;", "localhost;"),
        (r"ssl_certificate  .*;", f"ssl_certificate {folder}/cert.pem;"),
        (r"ssl_certificate_key .*;", f"ssl_certificate_key {folder}/key.pem;"),
        (r"server 127\.0\.0\.1:8000;", f"server {node};"),
        (r"listen 80;", f"listen 127.0.0.1:{plain};"),
        (r"listen \[::\]:80;", f"{six.format(plain)};"),
        (r"listen 443 ", f"listen 127.0.0.1:{https} "),
        (r"listen \[::\]:443 ", six.format(https)),
        (r"/var/log/nginx/", f"{folder}/"),
    ):
        text, count = re.subn(pattern, new, text)
        assert count, pattern
    return text
