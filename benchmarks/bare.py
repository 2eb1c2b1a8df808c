"""The floor to compare with: a Flask proxy that only adds a bearer token and passes bytes on."""

import os

import urllib3
from flask import Flask, Response, request

UPSTREAM = os.environ["UPSTREAM"]
PASSED = ("Accept", "Mcp-Session-Id", "Mcp-Protocol-Version", "Mcp-Method", "Mcp-Name")
app = Flask(__name__)
pool = urllib3.PoolManager(num_pools=4, maxsize=128, retries=False)


@app.post("/mcp")
def mcp() -> Response:
    headers = {"Content-Type": "application/json", "Authorization": "Bearer tok1"}
    headers |= {name: request.headers[name] for name in PASSED if name in request.headers}
    answer = pool.request(
        "POST", UPSTREAM, body=request.get_data(), headers=headers, redirect=False
    )
    return Response(answer.data, answer.status, content_type=answer.headers.get("Content-Type"))
