"""
7. A pre-forking HTTP server: one listening socket, opened before the fork.

PORT=8080 python 07_http.py start && curl http://127.0.0.1:8080/

One that is asked to quit finishes the request that it has accepted and takes no
other; what waits in the socket is for the others.
"""

import os
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

from ghostd import Prefork


class Answer(BaseHTTPRequestHandler):
    timeout = 5  # seconds for a client that says nothing

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"pid %d slot %d\n" % (g.pid, g.slot or 0))

    def log_message(self, message: str, *args: object) -> None:
        g.log.debug(message, *args)


class Web(Prefork):
    def init(self) -> None:
        port = int(os.environ.get("PORT", "8080"))
        self.server = HTTPServer(("127.0.0.1", port), Answer)
        # One that lost the race for a client to another must not hang in accept().
        self.server.socket.setblocking(False)

    def spirit(self) -> None:
        while self.wait(60, self.server.socket):
            self.server.handle_request()


if __name__ == "__main__":
    g = Web(logfile="daemon.log", pidfile="daemon.pid")
    sys.exit(g.ctrl())
