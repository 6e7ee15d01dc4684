"""
A daemon's own life, from its first instruction to its last.

The order is the promise: pidfile, log, rights, signals, `init`, `startup`, `cleanup`,
and the pidfile away again. What fails before the daemon is up is told to the launcher
in words, with the traceback of the user's code.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from typing import TYPE_CHECKING

from ghostd import hooks
from ghostd.errors import GhostError, Interrupted
from ghostd.logs import open_log
from ghostd.unix import daemonize, privilege
from ghostd.unix.daemonize import Report
from ghostd.unix.privilege import Identity

if TYPE_CHECKING:
    from ghostd.ghost import Ghost

SIGNALS = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGQUIT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT)
INTERRUPTED, NORMAL = 1, 0


def settle(
    ghost: Ghost, identity: Identity | None, report: Report, *, foreground: bool
) -> None:
    """
    Become the daemon: pidfile, log, rights, signals.

    Raises:
        GhostError: one of them could not be had; the pidfile is gone again.
    """
    ghost.filepid.take()
    try:
        report.pid()
        owner = None if identity is None else (identity.uid, identity.gid)
        stream = sys.stderr if foreground else None
        ghost._log = open_log(ghost.settings, foreground=stream, owner=owner)
        privilege.drop(identity)
        ghost._inbox.open()
    except BaseException:
        ghost.filepid.release()
        raise
    ghost._report = report
    ghost._begin()
    ghost.log.info(
        "Ghost process %d started", os.getpid(), extra={"event": "ghost.started"}
    )


def live(
    ghost: Ghost, identity: Identity | None, report: Report, *, foreground: bool
) -> int:
    """Live the whole life; give the exit code. Raises nothing."""
    try:
        settle(ghost, identity, report, foreground=foreground)
    except GhostError as error:
        return _fail(report, say(error), foreground=foreground)
    except Exception:  # noqa: BLE001 - the launcher must hear of anything
        return _fail(report, traceback.format_exc(), foreground=foreground)
    try:
        return _work(ghost, report)
    finally:
        _end(ghost)


def say(error: BaseException) -> str:
    """Say an error of ours with its hints."""
    return "\n".join((str(error), *getattr(error, "__notes__", ())))


def _fail(report: Report, reason: str, *, foreground: bool) -> int:
    if foreground:
        print(reason, file=sys.stderr)
    report.failed(reason)
    return 1


def _work(ghost: Ghost, report: Report) -> int:
    """Run the user's code; an exception of its is logged, told and is exit code 1."""
    ghost._inbox.reaction = ghost._react
    try:
        ghost.init()
        code = ghost._serve()
    except Interrupted:
        return 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(bool(error.code))
    except BaseException as error:  # noqa: BLE001 - the user's code may raise anything
        ghost.log.fatal(
            "Ghost process %d failed: %s",
            os.getpid(),
            hooks.describe(error),
            exc_info=True,
            extra={"event": "ghost.failed"},
        )
        report.failed(traceback.format_exc())
        return 1
    finally:
        ghost._inbox.reaction = None
    return code


def _end(ghost: Ghost) -> None:
    """Clean up; nothing in here can keep the pidfile from going away."""
    scope = INTERRUPTED if ghost._interrupted else NORMAL
    try:
        ghost.cleanup(scope)
    except BaseException:  # noqa: BLE001 - the last thing that the user's code does
        ghost.log.error("cleanup failed", exc_info=True, extra={"event": "hook.failed"})
    ghost.log.info(
        "Ghost process %d stopped", os.getpid(), extra={"event": "ghost.stopped"}
    )
    ghost.filepid.release()
    ghost._inbox.close()
    ghost.log.close()


def launch(ghost: Ghost, identity: Identity | None) -> daemonize.Verdict | None:
    """
    Fork a daemon and hear whether it came up.

    Returns:
        The verdict in the launcher; None in the daemon, which has detached and must
        go on with `settle` or `live`.

    Raises:
        OSError: no fork, or no descriptor left.
    """
    import time

    from ghostd.unix import fork

    daemonize.open_standard_streams()
    meant = daemonize.activated()
    deadline = time.monotonic() + ghost.settings.start_timeout
    read, write = fork.pipe()
    os.set_blocking(read, True)
    between, report = daemonize.detach((read, write))
    if report is None:
        os.waitpid(between, 0)
        try:
            # The daemon keeps the same hour; its word comes a moment later.
            return daemonize.listen(read, deadline + 0.25)
        finally:
            os.close(read)
    ghost._report = report
    ghost._boot_deadline = deadline
    ghost._daemonized = True
    daemonize.let_go(ghost.settings.umask, meant)
    return None
