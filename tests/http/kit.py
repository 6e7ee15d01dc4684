"""
What the HTTP tests share: applications, a daemon that serves them, an exact client.

The client speaks over a plain socket, so that a test says what is sent when, and sees
every byte, also how a connection ends.
"""

from __future__ import annotations

import json
import re
import signal
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from ghostd.testing import Daemon

SCRIPT = """
import json, os, sys
from ghostd.http import HttpServer

g = HttpServer(**json.loads(os.environ["SETTINGS"]))
if __name__ == "__main__":
    sys.exit(g.ctrl())
"""

APPS = (Path(__file__).parent / "apps.py").read_text()

PLAIN: dict[str, object] = {
    "app": "apps:asgi",
    "logfile": "service.log",
    "pidfile": "service.pid",
    "spirits": 1,
    "term": "immediate",
    "heartbeat_interval": 0.1,
    "heartbeat_timeout": 5,
    "graceful_timeout": 5,
    "keepalive_drain": 0.5,
    "canary_time": 0,
}


class Server(Daemon):
    """
    A daemon that serves the applications of `apps.py`.

    Attributes:
        port: where.
    """

    def __init__(self, **settings: object) -> None:
        """Take settings over `PLAIN`; one spirit, so that it is known who answers."""
        self.port: int = free_port()
        address = f"127.0.0.1:{self.port}"
        given = {**PLAIN, "listen": [address], **settings}
        self.number = int(str(given["spirits"]))
        super().__init__(
            SCRIPT,
            env={"SETTINGS": json.dumps(given)},
            pidfile="service.pid",
            logfile="service.log",
        )

    def __enter__(self) -> Self:
        """Lay the applications beside the script."""
        super().__enter__()
        (self.folder / "apps.py").write_text(APPS)
        return self

    def up(self) -> Self:
        """Start, and wait until all spirits are healthy."""
        self.start()
        self.wait_for(lambda: self.healthy == self.number == len(self.spirits))
        return self

    def drain_one(self) -> int:
        """Tell the oldest spirit to leave, as the manager does; give its pid."""
        return self.kill_spirit(self.spirits[0], signal.SIGQUIT)

    def client(self) -> Client:
        """Make a connection."""
        return Client(socket.create_connection(("127.0.0.1", self.port), 10))

    def get(self, path: str = "/") -> Answer:
        """Ask once, on a connection of its own."""
        with self.client() as client:
            return client.get(path)


def free_port() -> int:
    """Give a port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Answer:
    """
    An answer.

    Attributes:
        status: its code.
        headers: names in lower case.
        body: all of it.
    """

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        """Note what came."""
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def closes(self) -> bool:
        """Whether the server said that it closes the connection."""
        return "close" in self.headers.get("connection", "").lower()


class Client:
    """One connection; what is sent is sent as it is."""

    def __init__(self, sock: socket.socket) -> None:
        """Take a connected socket."""
        self.sock = sock
        self._left = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.sock.close()

    def send(self, text: str | bytes) -> None:
        """Send bytes."""
        self.sock.sendall(text.encode() if isinstance(text, str) else text)

    def ask(self, path: str = "/", version: str = "1.1", headers: str = "") -> None:
        """Send a request, and do not wait for the answer."""
        self.send(f"GET {path} HTTP/{version}\r\nHost: a\r\n{headers}\r\n")

    def get(self, path: str = "/", version: str = "1.1", headers: str = "") -> Answer:
        """Ask, and read the answer."""
        self.ask(path, version, headers)
        return self.answer()

    def _more(self) -> bytes:
        data = self.sock.recv(65536)
        if not data:
            raise EOFError(f"the end came after {self._left!r}")
        return data

    def until(self, mark: bytes) -> bytes:
        """Read up to and with *mark*."""
        while mark not in self._left:
            self._left += self._more()
        before, _, self._left = self._left.partition(mark)
        return before + mark

    def exactly(self, number: int) -> bytes:
        """Read so many bytes."""
        while len(self._left) < number:
            self._left += self._more()
        data, self._left = self._left[:number], self._left[number:]
        return data

    def head(self) -> Answer:
        """Read an answer up to its body."""
        first, *lines = self.until(b"\r\n\r\n").decode().rstrip().split("\r\n")
        match = re.match(r"HTTP/1\.1 (\d+)", first)
        assert match, first
        pairs = [line.partition(": ")[::2] for line in lines]
        return Answer(int(match[1]), {k.lower(): v for k, v in pairs}, b"")

    def chunks(self) -> Iterator[bytes]:
        """Read the chunks of a body."""
        while size := int(self.until(b"\r\n"), 16):
            yield self.exactly(size)
            self.exactly(2)
        self.exactly(2)

    def answer(self) -> Answer:
        """Read a whole answer."""
        answer = self.head()
        if answer.headers.get("transfer-encoding") == "chunked":
            answer.body = b"".join(self.chunks())
        else:
            answer.body = self.exactly(int(answer.headers.get("content-length", "0")))
        return answer

    def reset(self) -> None:
        """Hang up in the hard way, as a check of a load balancer does."""
        linger = struct.pack("ii", 1, 0)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.sock.close()

    @staticmethod
    def now() -> float:
        """Give the seconds of a clock."""
        return time.monotonic()

    def ends(self) -> float:
        """Wait for the end, which must be one and no reset; give the seconds."""
        began = time.monotonic()
        data = self._left + self.sock.recv(65536)
        assert data == b"", data
        return time.monotonic() - began


@contextmanager
def serving(**settings: object) -> Iterator[Server]:
    """Have a server that is up."""
    with Server(**settings) as server:
        yield server.up()
