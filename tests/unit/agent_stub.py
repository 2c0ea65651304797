# SPDX-License-Identifier: GPL-2.0-or-later
"""An agent that answers from a table, on a real Unix socket."""

import socketserver
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

import msgspec


class Stub:
    """``answers``: what to say by path, a struct or several (sent as JSON lines). ``asked``: (method, path, body)."""

    def __init__(self, answers):
        self.answers = answers
        self.asked = []

    def said(self, path):
        answer = self.answers[path.partition("?")[0]]
        return answer if isinstance(answer, list) else [answer]


def _handler(stub):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.answer(b"")

        def do_POST(self):
            self.answer(self.rfile.read(int(self.headers["Content-Length"])))

        def answer(self, body):
            stub.asked.append((self.command, self.path, msgspec.json.decode(body) if body else None))
            said = stub.said(self.path)
            self.send_response(409 if type(said[0]).__name__ == "Error" else 200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            if self.path.startswith("/v1/events"):
                self.wfile.write(b"\n")
            for one in said:
                self.wfile.write(msgspec.json.encode(one) + b"\n")

        def log_message(self, *_):
            pass

        def address_string(self):
            return "unix"

    return Handler


@contextmanager
def serving(path, answers):
    """The stub, answering at ``path`` until the block ends."""
    stub = Stub(answers)
    with socketserver.ThreadingUnixStreamServer(str(path), _handler(stub)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield stub
        finally:
            server.shutdown()
            thread.join()
