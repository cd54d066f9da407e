"""The official MCP client, through the gateway: one JSON line of what it came to for each step."""
import asyncio
import json
import sys

import httpx2
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client

url = sys.argv[1]


async def step(name, wait):
    try:
        got = await wait
        said = got.model_dump(mode="json", exclude_none=True) if hasattr(got, "model_dump") else got
        print(json.dumps({"step": name, "said": said}), flush=True)
    except Exception as error:
        print(json.dumps({"step": name, "error": str(error)}), flush=True)


async def main():
    seen = []

    async def progress(done, total, message):
        seen.append(done)

    async with httpx2.AsyncClient(headers={"Host": "mcp.test"}, timeout=20) as http:
        async with streamable_http_client(url, http_client=http) as streams:
            async with ClientSession(streams[0], streams[1]) as session:
                await step("initialize", session.initialize())
                await step("list", session.list_tools())
                await step("echo", session.call_tool("echo", {"text": "hello"}))
                await step("delete", session.call_tool("delete", {"path": "/"}))
                await step("secret", session.call_tool("echo", {"text": "secret"}))
                await step("count", session.call_tool("count", {"to": 20}, progress_callback=progress))
                print(json.dumps({"step": "progress", "said": len(seen)}), flush=True)
                await step("note", session.read_resource("note://open"))
                await step("private", session.read_resource("note://private"))
                await step("greet", session.get_prompt("greet", {"name": "ann"}))
                await step("ping", session.send_ping())


asyncio.run(main())
