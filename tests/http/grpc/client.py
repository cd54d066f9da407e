"""Calls each method as an agent's program would, and prints what came of it.

The gateway's address, and its CA where the call is to go through TLS."""

import queue
import sys

import grpc

target, name = sys.argv[1:3]
options = [("grpc.default_authority", name), ("grpc.ssl_target_name_override", name)]
if len(sys.argv) > 3:
    roots = open(sys.argv[3], "rb").read()
    channel = grpc.secure_channel(target, grpc.ssl_channel_credentials(roots), options)
else:
    channel = grpc.insecure_channel(target, options)

one = channel.unary_unary("/tail.Keep/One")
answer, call = one.with_call(b"1", metadata=(("x-asked", "yes"),), timeout=20)
begins, ends = dict(call.initial_metadata()), dict(call.trailing_metadata())
print("one", answer, begins["x-begins"], ends["x-ends"], ends["x-raw-bin"], call.code().name)

call = channel.unary_stream("/tail.Keep/Down")(b"3", timeout=20)
print("down", list(call), dict(call.trailing_metadata())["x-ends"], call.code().name)

# More than any window on the way holds.
up = channel.stream_unary("/tail.Keep/Up")
print("up", up(iter([b"x" * 3_000_000] * 3), timeout=20))


def talk():
    """A call, and what says the next of its messages."""
    said = queue.Queue()
    return channel.stream_stream("/tail.Keep/Both")(iter(said.get, None), timeout=20), said


# Each message is sent when the answer to the last one is there: nothing may wait for more.
call, said = talk()
heard = []
for word in (b"a", b"b", b"last"):
    said.put(word)
    heard.append(next(call))
said.put(None)
print("both", heard, list(call), call.code().name)

# The server's own error, behind a message.
call, said = talk()
said.put(b"fail")
try:
    print("both", next(call), next(call))
except grpc.RpcError as error:
    print("fails", error.code().name, error.details())

# Given up by the client: the server is told.
call, said = talk()
said.put(b"a")
next(call)
call.cancel()
said.put(None)
print("cancelled", channel.unary_unary("/tail.Keep/Cancelled")(b"", timeout=20))

# Refused by the gateway, before, between and after what is allowed, on the same connection.
for kind, ask in ((channel.unary_unary, b"1"), (channel.stream_unary, iter([b"1"]))):
    try:
        print("drop", kind("/tail.Keep/Drop")(ask, timeout=20))
    except grpc.RpcError as error:
        print("drop", error.code().name, error.details())
print("after", one(b"2", metadata=(("x-asked", "yes"),), timeout=20))
