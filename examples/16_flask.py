"""
16. A Flask application in a daemon of one's own, in eight threads of each spirit.

PORT=8080 python 16_flask.py start && curl http://127.0.0.1:8080/

A slow request holds one of the threads and no spirit. After 10,000 requests, or a few
less, a spirit is replaced, and its successor serves before it leaves.
"""

import os
import sys
import time

from ghostd.http import HttpServer


def make() -> object:
    from flask import Flask

    app = Flask(__name__)

    @app.get("/")
    def hello() -> str:
        return f"pid {g.pid} slot {g.slot}\n"

    @app.get("/slow")
    def slow() -> str:
        time.sleep(1)
        return "that took a second\n"

    return app


g = HttpServer(
    app=make,
    factory=True,
    listen=[f"127.0.0.1:{os.environ.get('PORT', '8080')}"],
    logfile="daemon.log",
    threads=8,
    max_requests=10_000,
)

if __name__ == "__main__":
    sys.exit(g.ctrl())
