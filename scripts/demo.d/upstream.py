"""The production side of the demo: an HTTPS API that checks a token, and a Kubernetes-shaped API.

usage: upstream.py CERT KEY LOG TOKEN
Prints its two ports. Every request it really got is a line in LOG, so that the demo can check what
reached production and what did not.
"""

import http.server
import json
import ssl
import sys
import threading

CERT, KEY, LOG, TOKEN = sys.argv[1:5]
PODS = {"web-1", "web-2"}
LOCK = threading.Lock()


def pod(name):
    return {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {"name": name, "namespace": "shop", "uid": "uid-" + name, "resourceVersion": "1"},
        "spec": {"containers": [{"name": "main", "image": "shop"}]},
        "status": {"phase": "Running"},
    }


def status(code, reason, message):
    return {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": message, "code": code}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, code, value):
        body = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def note(self):
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else b""
        with LOCK, open(LOG, "a") as log:
            log.write(f"{self.command} {self.path} {self.headers.get('Authorization', '-')}\n")
        return body


class Api(Handler):
    def do_GET(self):
        self.note()
        if self.headers.get("Authorization") != "Bearer " + TOKEN:
            return self.answer(401, {"message": "bad credentials"})
        # An upstream that echoes the secret back: the agent must see its placeholder.
        self.answer(200, {"login": "octo-agent", "you_sent": self.headers["Authorization"]})

    do_POST = do_DELETE = do_GET


class Kubernetes(Handler):
    def do_GET(self):
        self.note()
        path = self.path.split("?")[0].rstrip("/")
        if path == "/version":
            return self.answer(200, {"major": "1", "minor": "32", "gitVersion": "v1.32.0"})
        if path == "/api":
            return self.answer(200, {"kind": "APIVersions", "versions": ["v1"]})
        if path == "/apis":
            return self.answer(200, {"kind": "APIGroupList", "apiVersion": "v1", "groups": []})
        if path == "/api/v1":
            verbs = ["get", "list", "watch", "delete"]
            pods = {"name": "pods", "singularName": "pod", "namespaced": True, "kind": "Pod", "verbs": verbs, "shortNames": ["po"]}
            return self.answer(200, {"kind": "APIResourceList", "groupVersion": "v1", "resources": [pods]})
        with LOCK:
            names = sorted(PODS)
        if path == "/api/v1/namespaces/shop/pods":
            return self.answer(200, {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": [pod(n) for n in names]})
        name = path.rpartition("/")[2]
        if path == "/api/v1/namespaces/shop/pods/" + name and name in names:
            return self.answer(200, pod(name))
        self.answer(404, status(404, "NotFound", "not found"))

    def do_DELETE(self):
        # Who says to be of 1.32 has dry runs, for whoever sets `preview = true` here.
        tried = b"dryRun" in self.note() + self.path.encode()
        name = self.path.split("?")[0].rpartition("/")[2]
        with LOCK:
            found = name in PODS
            if not tried:
                PODS.discard(name)
        if found:
            return self.answer(200, {"kind": "Status", "apiVersion": "v1", "status": "Success", "details": {"name": name, "kind": "pods"}})
        self.answer(404, status(404, "NotFound", "not found"))


def serve(handler):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERT, KEY)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_address[1]


print(serve(Api), serve(Kubernetes), flush=True)
threading.Event().wait()
