"""Stands in for serve.py, which needs ten seconds to start: key and socket come over stdin, an answer is what its
parameters say, in as many pieces as a request asks for, and `first` is executed before it listens."""

import http.server
import json
import os  # noqa: F401 -- for `first`
import signal  # noqa: F401
import socketserver
import sys
import time
from pathlib import Path

given = json.loads(sys.stdin.readline())
parameters = json.loads(Path("../job.json").read_text("utf-8"))["parameters"]
print("stand-in", parameters["says"], flush=True)
exec(parameters.get("first", ""))


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        time.sleep(body.get("seconds", 0))
        print("x" * body.get("print", 0), flush=True)
        if "pieces" in body:
            return self.stream(body["pieces"])
        return self.answer({"choices": [{"message": {"content": parameters["says"]}}]})

    def do_GET(self):
        self.answer({"data": []})

    def stream(self, pieces):
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        piece = f"{parameters['says']} ".encode()
        for _ in range(pieces):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            time.sleep(0.02)
        self.wfile.write(b"0\r\n\r\n")

    def answer(self, what):
        text = json.dumps(what).encode()
        self.send_response(200 if parameters.get("answers", True) else 500)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 100


Server(given["socket"], Handler).serve_forever()
