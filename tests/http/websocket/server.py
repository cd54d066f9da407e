"""A WebSocket server that echoes. Its port is the first line that it prints.

Called with a certificate's chain and key, it speaks TLS."""

import ssl
import sys

from websockets.exceptions import ConnectionClosedError
from websockets.sync.server import serve


def echo(connection):
    print(connection.request.path, connection.subprotocol, flush=True)
    try:
        for message in connection:
            if message == "close":
                connection.close(4001, "as was asked")
            else:
                connection.send(message)
    except ConnectionClosedError:
        pass
    print("closed", connection.close_code, connection.close_reason, flush=True)


secured = None
if len(sys.argv) > 2:
    secured = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    secured.load_cert_chain(sys.argv[1], sys.argv[2])
with serve(echo, "127.0.0.1", 0, ssl=secured, subprotocols=["two", "one"], max_size=None) as server:
    print(server.socket.getsockname()[1], flush=True)
    server.serve_forever()
