"""
The tale of a pool: every log line of the core, and the calls of hooks, in order.

The words are those of the ancestor where it has some, since machines read them. Each
line has a fixed name and fields beside its text (`Say`), and is written down here and
nowhere else.
"""

from __future__ import annotations

from ghostd.core.actions import (
    DEBUG,
    ERROR,
    FATAL,
    INFO,
    WARN,
    Action,
    Call,
    Kill,
    Quit,
    Reloaded,
    Say,
)
from ghostd.typed import Any


class Tale:
    """What is to be told and done, waiting to be taken."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._actions: list[Action] = []

    def __bool__(self) -> bool:
        """Tell whether anything waits."""
        return bool(self._actions)

    def take(self) -> list[Action]:
        """Give everything, in order, and begin anew."""
        actions, self._actions = self._actions, []
        return actions

    def add(self, action: Action) -> None:
        """Add something to be done."""
        self._actions.append(action)

    def call(self, hook: str, *args: object) -> None:
        """Have a hook called."""
        self.add(Call(hook, args))

    # -- a spirit's life -------------------------------------------------------

    def spawned(self, pid: int) -> None:
        """Begin a life."""
        self._say(INFO, "spirit.spawned", f"Spirit {pid} started", pid)
        self.call("spawn", pid)

    def fork_failed(self, reason: str, pause: float) -> None:
        """Say that a life did not begin."""
        self._say(
            ERROR,
            "fork.failed",
            f"Cannot start a spirit: {reason}; next try in {pause:.1f} seconds",
            reason=reason,
            pause=pause,
        )

    def stillborn(self, generation: int, reason: str) -> None:
        """Say that a life did not begin for want of code that loads."""
        self._say(
            ERROR,
            "spirit.stillborn",
            f"Cannot start a spirit of generation {generation}: {reason}",
            generation=generation,
            reason=reason,
        )

    def healthy(self, pid: int) -> None:
        """Say that the first beat has come."""
        self._say(DEBUG, "spirit.healthy", f"Spirit {pid} is healthy", pid)

    def finished(self, pid: int) -> None:
        """Say that a spirit said farewell."""
        self._say(DEBUG, "spirit.leaving", f"Spirit {pid} has finished", pid)

    def hung(self, pid: int, timeout: float, silent: float) -> None:
        """Say that a spirit has been silent for too long."""
        self._say(
            ERROR,
            "spirit.hung",
            f"Spirit {pid} has no heartbeat ({timeout:g} seconds), restarting",
            pid,
            silent=silent,
        )

    def quit(self, pid: int, graceful: float) -> None:
        """Ask a spirit to leave."""
        self._say(
            INFO,
            "spirit.leaving",
            f"Stopping spirit {pid} gracefully ({graceful:g} seconds)",
            pid,
        )
        self.add(Quit(pid))

    def kill(self, pid: int) -> None:
        """End a spirit."""
        self._say(WARN, "spirit.killed", f"Stopping spirit {pid} immediately", pid)
        self.add(Kill(pid))

    def died(self, pid: int, how: str) -> None:
        """Say that a spirit ended as nobody here wanted."""
        self._say(ERROR, "spirit.died", f"Spirit {pid} died: {how}", pid, how=how)

    def reaped(self, pid: int, how: str) -> None:
        """End a life."""
        self._say(INFO, "spirit.reaped", f"Spirit {pid} stopped", pid, how=how)
        self.call("reap", pid)

    def too_early(self, pid: int, how: str) -> None:
        """Say that the first of all spirits died before its first beat."""
        self._say(
            ERROR,
            "spirit.too_early",
            f"Spirit {pid} stopped too early, shutting down",
            pid,
            how=how,
        )

    def undying(self, words: str, pids: list[int]) -> None:
        """Say that the kernel does not let go of killed spirits."""
        self._say(FATAL, "spirit.undying", words, pids=pids)

    # -- the pool --------------------------------------------------------------

    def resized(self, before: int, spirits: int) -> None:
        """Say that another number of spirits is wanted."""
        event = "pool.grown" if spirits > before else "pool.shrunk"
        self._say(INFO, event, f"Pool size {before} -> {spirits}", spirits=spirits)

    def tired(self, pid: int, why: str) -> None:
        """Say that a spirit is to be replaced."""
        text = f"Spirit {pid} is to be replaced: {why}"
        self._say(INFO, "spirit.tired", text, pid, why=why)

    def reloading(self, generation: int) -> None:
        """Say that new code is on trial."""
        self._say(
            INFO,
            "pool.reloading",
            f"Generation {generation} is on trial: one spirit, then all others",
            generation=generation,
        )

    def proven(self, generation: int, spirits: int) -> None:
        """Say that the new code has passed, and that everybody else is replaced."""
        self._say(
            INFO,
            "pool.rolling",
            f"Generation {generation} is good: replacing {spirits} spirits, one after "
            "another",
            generation=generation,
        )

    def reloaded(self, generation: int) -> None:
        """Say that nobody is left of older code."""
        text = f"Generation {generation} has replaced all others"
        self._say(INFO, "pool.reloaded", text, generation=generation)
        self.add(Reloaded(generation))

    def dropped(self, generation: int, good: int, reason: str) -> None:
        """Say that new code has failed, and that nothing else has changed."""
        self._say(
            ERROR,
            "pool.dropped",
            f"Generation {generation} is dropped, generation {good} goes on: {reason}",
            generation=generation,
            reason=reason,
        )
        self.add(Reloaded(generation, reason))

    def unfinished(self, generation: int, reason: str) -> None:
        """Tell whoever asked for a reload that it will not be told more of it."""
        self.add(Reloaded(generation, reason))

    def braked(self, cause: str, pause: float) -> None:
        """Say that the next birth has to wait."""
        self._say(
            WARN,
            "pool.braked",
            f"Spirits end too soon ({cause}); next start in {pause:.1f} seconds",
            pause=pause,
        )

    def late(self, seconds: float) -> None:
        """Say that the manager could not listen."""
        self._say(
            WARN,
            "manager.late",
            f"Manager was held up for {seconds:.1f} seconds; "
            "no spirit is blamed for it",
            seconds=seconds,
        )

    def _say(
        self, level: str, event: str, text: str, pid: int | None = None, **fields: Any
    ) -> None:
        if pid is not None:
            fields["pid"] = pid
        self.add(Say(level, event, text, fields))
