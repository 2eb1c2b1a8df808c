"""deploy/nginx.conf in a real nginx, in front of a real node."""

import datetime
import http.server
import json
import re
import shutil
import signal
import socket
import ssl
import threading
from pathlib import Path
from typing import NamedTuple

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.e2e.gateway import PASSWORD, ROOT, Gateway
from tests.process import Program

MAIN = """
daemon off;
pid {folder}/pid;
error_log stderr notice;
events {{ worker_connections 256; }}
http {{
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/gateway.conf;
}}
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def make_certificate(folder) -> None:
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


def adapted(folder, node: str, plain: int, https: int) -> str:
    """The shipped file, with the three places marked HERE and the ports made ours."""
    text = (ROOT / "deploy" / "nginx.conf").read_text()
    for pattern, new in (
        (r"gateway\.example\.com;", "localhost;"),
        (r"ssl_certificate  .*;", f"ssl_certificate {folder}/cert.pem;"),
        (r"ssl_certificate_key .*;", f"ssl_certificate_key {folder}/key.pem;"),
        (r"server 127\.0\.0\.1:8000;", f"server {node};"),
        (r"listen 80;", f"listen 127.0.0.1:{plain};"),
        (r"listen 443 ", f"listen 127.0.0.1:{https} "),
        (r"/var/log/nginx/", f"{folder}/"),
    ):
        text, count = re.subn(pattern, new, text)
        assert count, pattern
    return text


class Front(NamedTuple):
    https: str  # origin
    http: str
    folder: Path
    node: Gateway


@pytest.fixture
def front(tmp_path, gateway_server):
    """nginx, and one node behind it."""
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    assert nginx, "nginx is missing: apt-get install nginx-light"
    plain, https = free_port(), free_port()
    origin = f"https://localhost:{https}"
    node = gateway_server(PUBLIC_URL=origin, TRUSTED_PROXIES="127.0.0.1")
    make_certificate(tmp_path)
    conf = adapted(tmp_path, node.url.removeprefix("http://"), plain, https)
    (tmp_path / "gateway.conf").write_text(conf)
    (tmp_path / "main.conf").write_text(MAIN.format(folder=tmp_path))
    command = [nginx, "-c", tmp_path / "main.conf", "-e", "stderr"]
    with Program(command, end=signal.SIGTERM) as running:
        running.wait_for("start worker process ")
        yield Front(origin, f"http://localhost:{plain}", tmp_path, node)


def test_people_come_in_by_https_alone(front):
    https, http, folder, _ = front
    moved = requests.get(f"{http}/login?next=/tools", allow_redirects=False)
    assert moved.status_code == 308
    assert moved.headers["Location"] == "https://localhost/login?next=/tools"
    page = requests.get(f"{https}/login", verify=folder / "cert.pem")
    assert page.status_code == 200
    assert page.headers["Strict-Transport-Security"]
    assert re.match(r"__Host-\w+=.*; Secure", page.headers["Set-Cookie"])


def test_sec_013_the_access_log_names_no_query(front):
    https, _, folder, _ = front
    callback = f"{https}/oauth/callback?code=c0de&state=st4te"
    for url in (callback, f"{https}/health"):  # the first is logged before the second is served
        requests.get(url, verify=folder / "cert.pem")
    log = (folder / "gateway.access.log").read_text()
    assert "/oauth/callback" in log
    assert "c0de" not in log and "st4te" not in log


def test_another_name_gets_no_handshake(front):
    https, _, folder, _ = front
    anyone = ssl.create_default_context(cafile=folder / "cert.pem")
    anyone.check_hostname = False
    port = int(https.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as link:
        with pytest.raises(ssl.SSLError, match="UNRECOGNIZED_NAME"):
            anyone.wrap_socket(link, server_hostname="elsewhere.example.com")


def test_sec_098_a_chunked_disguise_is_refused_at_the_front(front):
    https, _, folder, _ = front
    trusted = ssl.create_default_context(cafile=folder / "cert.pem")
    port = int(https.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as link:
        with trusted.wrap_socket(link, server_hostname="localhost") as tls:
            head = f"POST /mcp/x HTTP/1.1\r\nHost: localhost:{port}\r\n"
            tls.sendall(f"{head}Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n".encode())
            assert re.match(rb"HTTP/1.1 (400|501) ", tls.recv(100))


class Patient(http.server.BaseHTTPRequestHandler):
    """An MCP server that sends the second event only when the test has seen the first."""

    protocol_version = "HTTP/1.1"
    seen = threading.Event()

    def do_POST(self):
        message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if message["method"] == "initialize":
            hello = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}}
            hello["serverInfo"] = {"name": "patient", "version": "1"}
            return self.reply("application/json", self.answer(message, hello))
        if message["method"] != "tools/call":
            return self.reply("application/json", b"", status=202)
        note = {"progressToken": "p", "progress": 1, "total": 2}
        first = {"jsonrpc": "2.0", "method": "notifications/progress", "params": note}
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.event(json.dumps(first).encode())
        assert self.seen.wait(30), "nobody saw the first event"
        self.event(self.answer(message, {"content": [], "isError": False}))
        self.close_connection = True

    def answer(self, message, result) -> bytes:
        return json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}).encode()

    def reply(self, kind, body, *, status=200):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def event(self, data):
        self.wfile.write(b"event: message\ndata: " + data + b"\n\n")
        self.wfile.flush()

    def log_message(self, *_):
        """Nothing: it would go to the terminal."""


@pytest.fixture
def patient():
    Patient.seen.clear()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Patient)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/mcp"
    server.shutdown()
    thread.join()
    server.server_close()


def test_an_event_comes_through_before_the_next_one_is_made(front, patient, tmp_path):
    https, _, folder, node = front
    record = {"name": "Patient", "slug": "patient", "url": patient, "auth_type": "none"}
    (tmp_path / "patient.json").write_text(json.dumps(record))
    node.flask("users", "create-admin", "a@example.com", "--password-stdin", stdin=PASSWORD)
    node.flask("gateways", "add", str(tmp_path / "patient.json"))
    params = {"name": "any", "arguments": {}, "_meta": {"progressToken": "p"}}
    answer = requests.post(
        f"{https}/mcp/patient",
        json={"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params},
        headers={
            "Authorization": f"Bearer {node.token('a@example.com')}",
            "Accept": "application/json, text/event-stream",
        },
        verify=folder / "cert.pem",
        stream=True,
        timeout=20,
    )
    with answer:
        events = (line for line in answer.iter_lines(chunk_size=1) if line.startswith(b"data:"))
        assert b"notifications/progress" in next(events)
        Patient.seen.set()
        assert json.loads(next(events).removeprefix(b"data:"))["id"] == 7
