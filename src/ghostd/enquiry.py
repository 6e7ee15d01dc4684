"""Enquiries: what a command asks the desk of a running daemon (see `desk`)."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator

from ghostd.errors import GhostError
from ghostd.typed import Any
from ghostd.unix import callers
from ghostd.unix.callers import VERSION


class Enquiry:
    """
    A question that is on its way.

    Args:
        path: of the daemon's socket.
        verb: what it is to do.

    Raises:
        OSError: nobody listens there, or not to us.
    """

    def __init__(self, path: str, verb: str) -> None:
        """Ask."""
        self._sock = callers.call(path)
        try:
            request = json.dumps({"ghostd": VERSION, "do": verb})
            self._sock.sendall(request.encode() + b"\n")
        except BaseException:
            self._sock.close()
            raise

    def answers(self, patience: float) -> Iterator[dict[str, Any]]:
        """
        Give line after line until the daemon hangs up.

        Args:
            patience: seconds of silence after which it is given up.

        Raises:
            GhostError: it said nothing for so long, or nothing that makes sense.
        """
        heard = b""
        with contextlib.closing(self._sock) as sock:
            deadline = time.monotonic() + patience
            while True:
                sock.settimeout(max(0.001, deadline - time.monotonic()))
                try:
                    data = sock.recv(65536)
                except TimeoutError:
                    raise GhostError(
                        f"the daemon has said nothing for {patience:g} seconds"
                    ) from None
                except OSError:
                    return
                if not data:
                    return
                *lines, heard = (heard + data).split(b"\n")
                for line in lines:
                    yield _read(line)
                deadline = time.monotonic() + patience

    def close(self) -> None:
        """Hang up."""
        self._sock.close()


def _read(line: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(line)
    except ValueError:
        answer = None
    if not isinstance(answer, dict) or answer.get("ghostd") != VERSION:
        raise GhostError(f"the daemon speaks another language: {line[:80]!r}")
    return answer


def status(path: str) -> dict[str, Any]:
    """
    Ask a pool how it is.

    Raises:
        OSError: nobody listens at *path*, or not to us.
        GhostError: no answer that makes sense.
    """
    for answer in Enquiry(path, "status").answers(patience=5.0):
        if isinstance(answer.get("status"), dict):
            return dict(answer["status"])
        raise GhostError(str(answer.get("failed", answer)))
    raise GhostError("the daemon ended before it answered")


def reload(path: str, patience: float) -> Iterator[tuple[str, dict[str, Any]]]:
    """
    Ask a pool for new code; give ("progress", figures), and ("done", figures) last.

    Raises:
        OSError: nobody listens at *path*, or not to us.
        GhostError: it failed, with the reason; or no answer that makes sense.
    """
    for answer in Enquiry(path, "reload").answers(patience):
        if "failed" in answer:
            raise GhostError(str(answer["failed"]))
        for word in ("progress", "done"):
            if isinstance(answer.get(word), dict):
                yield word, answer[word]
                if word == "done":
                    return
    raise GhostError("the daemon ended before the reload did")
