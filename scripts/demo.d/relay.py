"""Leads a port of the loopback elsewhere, for clients that cannot go there themselves.

usage: relay.py PORT unix PATH                127.0.0.2 to a Unix socket
       relay.py PORT socks PROXY HOST PORT    127.0.0.1 through the SOCKS5 proxy at the loopback's port PROXY
"""

import ipaddress
import socket
import struct
import sys
import threading


def dial():
    if sys.argv[2] == "unix":
        far = socket.socket(socket.AF_UNIX)
        far.connect(sys.argv[3])
        return far
    proxy, host, port = int(sys.argv[3]), ipaddress.ip_address(sys.argv[4]), int(sys.argv[5])
    far = socket.create_connection(("127.0.0.1", proxy))
    # One method, none; CONNECT to an address.
    far.sendall(b"\5\1\0")
    read(far, 2)
    kind = 1 if host.version == 4 else 4
    far.sendall(b"\5\1\0" + bytes([kind]) + host.packed + struct.pack("!H", port))
    _, said, _, kind = read(far, 4)
    read(far, {1: 4, 4: 16}[kind] + 2)
    if said:
        raise OSError(f"the proxy says {said}")
    return far


def read(stream, length):
    got = b""
    while len(got) < length:
        piece = stream.recv(length - len(got))
        if not piece:
            raise OSError("the proxy closed the connection")
        got += piece
    return got


def pass_on(source, target):
    try:
        while data := source.recv(65536):
            target.sendall(data)
    except OSError:
        pass
    for one in (source, target):
        try:
            one.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def serve(near):
    try:
        far = dial()
    except OSError:
        near.close()
        return
    for pair in ((near, far), (far, near)):
        threading.Thread(target=pass_on, args=pair, daemon=True).start()


# What stands for production is not where a tailscaled without a network device takes what is sent to its node.
here = "127.0.0.2" if sys.argv[2] == "unix" else "127.0.0.1"
door = socket.create_server((here, int(sys.argv[1])))
while True:
    threading.Thread(target=serve, args=(door.accept()[0],), daemon=True).start()
