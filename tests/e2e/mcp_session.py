#!/usr/bin/env python3
"""One AI client that stays open: the `mcp` SDK's, steered by lines of JSON on stdin.

    {"tools": true}                       the names of the tools
    {"call": "echo", "args": {"a": 1}}    {"text", "is_error", "progress"} or {"error"}

With --opens-links it says that it can show a link; asked to open one it prints {"open": url} and
goes on with the next line. Run by a Python that has `mcp`; ends when its stdin closes.
"""

import argparse
import asyncio
import json
import sys

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp.types import ElicitResult


def say(value):
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


async def hear():
    line = await asyncio.to_thread(sys.stdin.readline)
    return json.loads(line) if line.strip() else None


async def open_link(_context, params):
    say({"open": params.url})
    await hear()
    return ElicitResult(action="accept")


async def step(client, wanted):
    if "tools" in wanted:
        return {"tools": [tool.name for tool in (await client.list_tools()).tools]}
    progress = []

    async def on_progress(done, *_):
        progress.append(done)

    r = await client.call_tool(
        wanted["call"], wanted.get("args") or {}, progress_callback=on_progress
    )
    text = "\n".join(one.text for one in r.content if one.type == "text")
    return {"text": text, "is_error": r.is_error, "progress": progress}


async def main(a):
    headers = {"Authorization": f"Bearer {a.token}"}
    asks = {"elicitation_callback": open_link} if a.opens_links else {}
    async with httpx2.AsyncClient(headers=headers, timeout=30) as http:
        transport = streamable_http_client(a.url, http_client=http)
        async with Client(transport, mode=a.mode, **asks) as client:
            say({"version": client.session.protocol_version})
            while (wanted := await hear()) is not None:
                try:
                    say(await step(client, wanted))
                except MCPError as error:
                    say({"error": error.error.model_dump(include={"code", "message", "data"})})


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("token")
    parser.add_argument("--mode", default="auto")
    parser.add_argument("--opens-links", action="store_true")
    asyncio.run(main(parser.parse_args()))
