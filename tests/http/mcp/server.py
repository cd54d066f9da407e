"""An MCP server of the official package: prints its port, notes what it was called with on the error stream."""
import asyncio
import socket
import sys

import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.transport_security import TransportSecuritySettings

server = MCPServer("tools")


@server.tool()
def echo(text: str) -> str:
    print("echo", text, file=sys.stderr, flush=True)
    return text


@server.tool()
def delete(path: str) -> str:
    print("delete", path, file=sys.stderr, flush=True)
    return "deleted"


@server.tool()
async def count(to: int, ctx: Context) -> str:
    for n in range(to):
        await ctx.report_progress(n, to)
        await asyncio.sleep(0)
    return f"counted to {to}"


@server.resource("note://{name}")
def note(name: str) -> str:
    print("note", name, file=sys.stderr, flush=True)
    return f"note {name}"


@server.prompt()
def greet(name: str) -> str:
    return f"greet {name}"


app = server.streamable_http_app(
    transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False)
)
listener = socket.socket()
listener.bind(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
config = uvicorn.Config(app, log_level="error", ws="none")
asyncio.run(uvicorn.Server(config).serve(sockets=[listener]))
