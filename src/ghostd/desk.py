"""
The desk: where commands ask the running daemon, and are told how it went.

A Unix socket beside the pidfile, served by the manager's own loop. What is said is
JSON, one line each, and the version comes first:

    {"ghostd": 1, "do": "reload"}
    {"ghostd": 1, "progress": {"generation": 3, "replaced": 1, "wanted": 4}}
    {"ghostd": 1, "done": {"generation": 3}}         or
    {"ghostd": 1, "failed": "Spirit 71 ended ..."}

A caller asks once. Verbs are few: `reload`, which waits for its end, and `status`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from ghostd.core.pool import Pool
from ghostd.typed import Any
from ghostd.unix.callers import VERSION, Caller, Listener
from ghostd.unix.poller import Poller

VERBS = ("reload", "status")
MOST = 32
"""Callers at a time; the one that has been here longest goes first."""


class Desk:
    """
    Answers callers for one pool.

    Args:
        listener: the socket.
        poller: where it is watched.
    """

    def __init__(self, listener: Listener, poller: Poller) -> None:
        """Begin to listen."""
        self._listener = listener
        self._poller = poller
        self._callers: dict[int, Caller] = {}
        # Who waits for which reload, and how far the last line said it was.
        self._waiting: dict[int, tuple[int, tuple[int, int]]] = {}
        poller.add(listener.fd)

    @property
    def deadline(self) -> float | None:
        """Say when a caller will have been silent for too long; None: nobody is."""
        dues = [caller.deadline for caller in self._callers.values()]
        due = min(dues, default=float("inf"))
        return None if due == float("inf") else due

    def hear(self, fds: dict[int, int], now: float) -> Iterator[tuple[Caller, str]]:
        """Give who wants what, of those whose wish is complete and makes sense."""
        if self._listener.fd in fds:
            self._welcome()
        for fd, caller in list(self._callers.items()):
            if fd in fds and (line := caller.hear()) is not None:
                verb = self._read(caller, line)
                if verb:
                    yield caller, verb
            if caller.over or now >= caller.deadline:
                self._let_go(caller)

    def _welcome(self) -> None:
        while (caller := self._listener.accept()) is not None:
            self._callers[caller.fd] = caller
            self._poller.add(caller.fd)
            if len(self._callers) > MOST:
                self._let_go(next(iter(self._callers.values())))

    def _read(self, caller: Caller, line: bytes) -> str:
        """Give the verb of a request, "" after an answer to one that makes no sense."""
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            request = None
        if not isinstance(request, dict) or request.get("ghostd") != VERSION:
            self.answer(caller, failed=f"say one line of JSON, version {VERSION}")
            return ""
        verb = request.get("do")
        if verb not in VERBS:
            allowed = ", ".join(VERBS)
            self.answer(caller, failed=f"do is {verb!r:.50}, allowed: {allowed}")
            return ""
        return str(verb)

    def await_reload(self, caller: Caller, generation: int) -> None:
        """Have a caller wait for the end of a reload."""
        self._waiting[caller.fd] = (generation, (-1, -1))

    def tell(self, pool: Pool) -> None:
        """Tell those who wait how far it has come, if that has changed."""
        for fd, (generation, before) in list(self._waiting.items()):
            now = (pool.replaced, pool.wanted)
            if now != before and pool.reloads.underway == generation:
                self._waiting[fd] = (generation, now)
                story = {
                    "generation": generation,
                    "proven": pool.reloads.trial is None,
                    "replaced": now[0],
                    "wanted": now[1],
                }
                self._send(self._callers[fd], progress=story)

    def reloaded(self, generation: int, reason: str) -> None:
        """Tell those who wait for this reload how it ended."""
        for fd, (awaited, _) in list(self._waiting.items()):
            if awaited == generation:
                if reason:
                    self.answer(self._callers[fd], failed=reason)
                else:
                    self.answer(self._callers[fd], done={"generation": generation})

    def tell_status(self, caller: Caller, pool: Pool, now: float) -> None:
        """Tell how a pool is, at once."""
        self.answer(caller, status=status(pool, now))

    def answer(self, caller: Caller, **story: Any) -> None:
        """Say the last line, and hang up."""
        self._send(caller, **story)
        self._let_go(caller)

    def _send(self, caller: Caller, **story: Any) -> None:
        caller.say(json.dumps({"ghostd": VERSION, **story}).encode())
        if caller.over:
            self._let_go(caller)

    def _let_go(self, caller: Caller) -> None:
        if self._callers.pop(caller.fd, None) is not None:
            self._waiting.pop(caller.fd, None)
            self._poller.drop(caller.fd)
            caller.close()

    def close(self) -> None:
        """Let everybody go, and close the socket."""
        for caller in list(self._callers.values()):
            self._let_go(caller)
        self._poller.drop(self._listener.fd)
        self._listener.close()


def status(pool: Pool, now: float) -> dict[str, Any]:
    """Give what `status` tells of a pool; durations in seconds."""
    return {
        "ready": pool.ready,
        "stopping": pool.stopping is not None,
        "spirits": pool.wanted,
        "healthy": pool.healthy,
        "generation": pool.generation,
        "trial": pool.reloads.trial,
        "members": [
            {
                "pid": member.pid,
                "slot": member.slot,
                "generation": member.generation,
                "phase": member.phase.value,
                "age": round(now - member.born, 3),
                "silent": round(now - member.heard, 3),
            }
            for member in pool.members.values()
        ],
    }
