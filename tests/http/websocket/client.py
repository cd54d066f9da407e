"""A WebSocket client, as an agent's program would use it. Prints what came of it.

The gateway's port, the URL's beginning, and the gateway's CA where it is to go through TLS."""

import socket
import ssl
import sys

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

port, url = sys.argv[1:3]
secured = ssl.create_default_context(cafile=sys.argv[3]) if len(sys.argv) > 3 else None


def opened(path, **more):
    stream = socket.create_connection(("127.0.0.1", int(port)), 20)
    return connect(url + path, sock=stream, ssl=secured, max_size=None, proxy=None, **more)


with opened("/open", subprotocols=["one"]) as connection:
    extensions = [extension.name for extension in connection.protocol.extensions]
    print("open", connection.subprotocol, extensions)
    # One at a time, so that nothing may wait for more.
    for message in ("text ü", b"\0\xff", "", "x" * 3_000_000, b"y" * 3_000_000):
        connection.send(message)
        assert connection.recv(20) == message
    connection.send(["in ", "three ", "pieces"])
    print("pieces", connection.recv(20))
    print("ping", connection.ping().wait(20))
with opened("/open", subprotocols=["two"], compression=None) as connection:
    connection.send("close")
    try:
        connection.recv(20)
    except ConnectionClosed as error:
        print("closed", error.rcvd.code, error.rcvd.reason)
try:
    opened("/closed", subprotocols=["two"])
except InvalidStatus as error:
    print("refused", error.response.status_code, b"no sockets here" in error.response.body)
