"""A gRPC server of bytes: one method of each kind. Its port is the first line that it prints.

Called with a certificate's chain and key, it speaks TLS."""

import sys
import threading
from concurrent import futures

import grpc

CANCELLED = threading.Event()


def one(request, context):
    sent = dict(context.invocation_metadata())
    context.send_initial_metadata((("x-begins", sent["x-asked"]),))
    context.set_trailing_metadata((("x-ends", "one"), ("x-raw-bin", b"\0\xff")))
    return b"one " + request


def down(request, context):
    for number in range(int(request)):
        yield b"down %d" % number
    context.set_trailing_metadata((("x-ends", "down"),))


def up(requests, context):
    return b"%d" % sum(len(request) for request in requests)


def both(requests, context):
    last = []
    context.add_callback(lambda: last or CANCELLED.set())
    for request in requests:
        # A call that was given up has no more requests either: its last one says that it is.
        if request in (b"last", b"fail"):
            last.append(request)
        yield b"both " + request
        if request == b"fail":
            context.abort(grpc.StatusCode.NOT_FOUND, "nothing of this name: 100 % sure")


def cancelled(request, context):
    return b"%d" % CANCELLED.wait(20)


METHODS = {
    "One": grpc.unary_unary_rpc_method_handler(one),
    "Drop": grpc.unary_unary_rpc_method_handler(one),
    "Cancelled": grpc.unary_unary_rpc_method_handler(cancelled),
    "Down": grpc.unary_stream_rpc_method_handler(down),
    "Up": grpc.stream_unary_rpc_method_handler(up),
    "Both": grpc.stream_stream_rpc_method_handler(both),
}


class Calls(grpc.ServerInterceptor):
    """Says what was called."""

    def intercept_service(self, continuation, details):
        print(details.method, flush=True)
        return continuation(details)


server = grpc.server(futures.ThreadPoolExecutor(8), interceptors=[Calls()])
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("tail.Keep", METHODS),))
if len(sys.argv) > 2:
    chain, key = (open(path, "rb").read() for path in sys.argv[1:3])
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, chain)]))
else:
    port = server.add_insecure_port("127.0.0.1:0")
server.start()
print(port, flush=True)
server.wait_for_termination()
