"""
The control commands: what is printed, and the exit code.

Each command is a function of a ghost. They speak to the daemon only by its pidfile
and by signals, so they work from any process that constructs the same ghost.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from functools import partial

from ghostd import daemon
from ghostd.daemon import Daemon, Work
from ghostd.errors import AlreadyRunning, GhostError, PidfileError, StartError
from ghostd.typed import NoReturn, Protocol
from ghostd.unix import privilege, terminal
from ghostd.unix.pidfile import Pidfile
from ghostd.unix.privilege import Identity
from ghostd.unix.process import Process

IMMEDIATE = 5.0
MARGIN = 3.0
RUNNING, DEAD_WITH_PIDFILE, NOT_RUNNING, UNKNOWN = 0, 1, 3, 4


class Controlled(Work, Protocol):
    """What the commands want from a ghost."""

    _daemon: Daemon
    _patience: float
    _boot_patience: float

    @property
    def name(self) -> str:
        """Name of the daemon."""

    @property
    def pid(self) -> int:
        """Process id of the daemon."""

    def preinit(self) -> object:
        """Do something in the launcher before the fork."""

    def _check_body(self) -> None:
        """Refuse a ghost that has nothing to do."""


def _prepare(ghost: Controlled) -> Identity | None:
    """Check everything that can be known before the fork."""
    ghost._check_body()
    identity = privilege.resolve(
        ghost._daemon.settings.user, ghost._daemon.settings.group
    )
    privilege.check(identity)
    return identity


def start(ghost: Controlled) -> int:
    """
    Start the daemon.

    Returns:
        0 when it is up; 1 otherwise, with the reason on standard error.
    """
    try:
        if pid := ghost._daemon.filepid.running():
            return terminal.complain(f"Already running {pid}")
        identity = _prepare(ghost)
        ghost.preinit()
    except Exception as error:  # noqa: BLE001 - preinit is the user's
        return terminal.complain(f"{ghost.name} did not start: {daemon.say(error)}")
    try:
        verdict = ghost._daemon.launch()
    except GhostError as error:
        return terminal.complain(f"{ghost.name} did not start: {daemon.say(error)}")
    except KeyboardInterrupt:
        return terminal.complain(f"\n{ghost.name} goes on starting on its own")
    if verdict is None:
        _be_daemon(ghost, identity)
    for note in verdict.notes:
        terminal.complain(note)
    if verdict.up:
        ghost._daemon.known_pid = verdict.pid
        return 0
    reason = verdict.reason
    if not reason.startswith("Already running"):
        # A daemon without its rights may not have been allowed to remove it.
        ghost._daemon.clear_away()
        reason = f"{ghost.name} did not start: {reason}"
    return terminal.complain(reason)


def _be_daemon(ghost: Controlled, identity: Identity | None) -> NoReturn:
    """Live, and end here: what the script has around ctrl() is the launcher's."""
    code = 1
    try:
        code = ghost._daemon.live(ghost, identity, foreground=False)
    finally:
        os._exit(code & 0xFF)


def become_daemon(ghost: Controlled) -> None:
    """
    Daemonize the running script: in the daemon this returns, the launcher exits.

    Raises:
        GhostError: it did not work; nothing is left behind.
    """
    identity = privilege.resolve(
        ghost._daemon.settings.user, ghost._daemon.settings.group
    )
    privilege.check(identity)
    if pid := ghost._daemon.filepid.running():
        raise AlreadyRunning(f"Already running {pid}", pid)
    life = ghost._daemon
    verdict = life.launch()
    if verdict is None:
        try:
            life.settle(identity, foreground=False)
        except BaseException as error:  # noqa: BLE001 - the launcher must hear of it
            life.report.failed(daemon.say(error))
            os._exit(1)
        life.inbox.reaction = life.reaction(ghost)
        life.inbox.let_in()
        life.report.ready()
    elif verdict.up:
        # The script's atexit functions and buffers belong to the daemon now.
        os._exit(0)
    else:
        raise StartError(verdict.reason)


def run(ghost: Controlled) -> int:
    """Live in the foreground: no fork, no session of its own, Ctrl-C is INT."""
    try:
        identity = _prepare(ghost)
        ghost.preinit()
    except Exception as error:  # noqa: BLE001 - preinit is the user's
        return terminal.complain(f"{ghost.name} did not start: {daemon.say(error)}")
    os.umask(ghost._daemon.settings.umask)
    code = ghost._daemon.live(ghost, identity, foreground=True)
    terminal.let_go()
    return code


def stop(ghost: Controlled) -> int:
    """
    Stop the daemon: gracefully, then at once, then by force; never an orphan.

    Returns:
        Its pid when it is gone, 0 when none ran, minus its pid when it lives on.

    Raises:
        GhostError: it cannot be told who runs, or it belongs to somebody else.
    """
    process = _find(ghost)
    if process is None:
        ghost._daemon.clear_away()
        return 0
    try:
        if process.pid in (os.getpid(), os.getppid()) and ghost._daemon.inbox.is_open:
            # A hook or a body asks its own daemon: it cannot wait for its own end.
            process.send(signal.SIGQUIT)
            return -process.pid
        return _stop(ghost, process)
    except PermissionError:
        raise GhostError(
            f"process {process.pid} belongs to another user; nothing was sent"
        ) from None
    finally:
        process.close()


def _stop(ghost: Controlled, process: Process) -> int:
    patience = ghost._patience + MARGIN
    watched = sys.stderr.isatty()
    process.send(signal.SIGQUIT)
    # A stopped daemon could not obey; systemd wakes those too.
    process.send(signal.SIGCONT)
    try:
        if not process.ends_within(0.5 if watched else 0.0) and watched:
            terminal.complain(
                f"Waiting up to {patience:g} seconds for {process.pid} to finish "
                "(Ctrl-C leaves it finishing on its own)"
            )
        gone = process.ends_within(patience)
        if not gone:
            process.send(signal.SIGTERM)
            process.send(signal.SIGCONT)
            gone = process.ends_within(IMMEDIATE)
    except KeyboardInterrupt:
        terminal.complain(f"\n{process.pid} is finishing on its own")
        return -process.pid
    if not gone:
        gone = process.end_with_children(IMMEDIATE)
    if gone:
        # A daemon that gave up its rights may not have been allowed to remove it.
        ghost._daemon.clear_away()
    return process.pid if gone else -process.pid


def _find(ghost: Controlled) -> Process | None:
    """Open the door to the daemon that runs, None if none does."""
    filepid = ghost._daemon.filepid
    while pid := filepid.running():
        try:
            return Process(pid, partial(_is_still, filepid, pid))
        except ProcessLookupError:
            continue  # it ended meanwhile; another may have started
    return None


def _is_still(filepid: Pidfile, pid: int) -> bool:
    return filepid.running() == pid


def restart(ghost: Controlled) -> int:
    """
    Stop the daemon if one runs, then start it.

    What would make the start fail for sure is found before anything is stopped.

    Returns:
        0, or 1 with the reason on standard error.
    """
    try:
        _prepare(ghost)
        if (stopped := stop(ghost)) < 0:
            return terminal.complain(f"{-stopped} would not die")
    except GhostError as error:
        return terminal.complain(f"{ghost.name} was not restarted: {daemon.say(error)}")
    return start(ghost)


def reload(
    ghost: Controlled, number: str | int | None = None, *, wait: bool = True
) -> int:
    """
    Have the daemon reload; start it if none runs.

    A pool is asked at its control socket, and waited for: that its new code proved
    itself, and that it has replaced all spirits. Everything else gets a signal.

    Args:
        ghost: the daemon.
        number: send this signal and do not wait; None: HUP, if anything is sent.
        wait: do not send a signal where one can ask.

    Returns:
        0, or 1 with the reason on standard error.
    """
    wanted = signal_number("signal", number)
    process = _find(ghost)
    if process is None:
        return start(ghost)
    ghost._daemon.known_pid = process.pid
    try:
        if number is None and wait and (answer := _ask_to_reload(ghost)) is not None:
            return answer
        if wanted is not None:
            process.send(wanted)
    except PermissionError:
        raise GhostError(
            f"process {process.pid} belongs to another user; nothing was sent"
        ) from None
    finally:
        process.close()
    return 0


def _ask_to_reload(ghost: Controlled) -> int | None:
    """Ask, and wait for the end; None: there is nobody to ask."""
    if not ghost._daemon.control:
        return None
    try:
        from ghostd import enquiry
    except ImportError:
        return None  # whoever gave up his rights may not read the library any more
    try:
        for word, story in enquiry.reload(ghost._daemon.control, ghost._boot_patience):
            if word == "progress" and sys.stderr.isatty():
                terminal.complain(_progress(story))
    except GhostError as error:
        return terminal.complain(f"{ghost.name} was not reloaded: {daemon.say(error)}")
    except OSError:
        return None
    except KeyboardInterrupt:
        return terminal.complain(f"\n{ghost.name} goes on reloading on its own")
    return 0


def _progress(story: dict[str, object]) -> str:
    generation, wanted = story.get("generation"), story.get("wanted")
    if not story.get("proven"):
        return f"Generation {generation} is on trial"
    return f"Generation {generation}: {story.get('replaced')} of {wanted} spirits"


def signal_number(name: str, value: str | int | None) -> signal.Signals | None:
    """
    Read a signal: a name with or without SIG, a number; None: HUP, 0: none.

    Raises:
        GhostError: there is no such signal.
    """
    if value is None:
        return signal.SIGHUP
    if value in (0, "0"):
        return None
    text = str(value).upper()
    try:
        if text.isdigit():
            return signal.Signals(int(text))
        return signal.Signals["SIG" + text.removeprefix("SIG")]
    except (KeyError, ValueError):
        raise GhostError(
            f"{name} is {value!r}, allowed: a signal's name or number, or 0"
        ) from None


# -- the words of the command line ---------------------------------------------


def _start(ghost: Controlled, _signal: str | int | None) -> int:
    return start(ghost) or terminal.say(f"Running {ghost.pid}")


def _stop_command(ghost: Controlled, _signal: str | int | None) -> int:
    stopped = stop(ghost)
    if stopped < 0:
        return terminal.complain(f"{-stopped} is still running")
    return terminal.say(f"Stopped {stopped}" if stopped else "Not running")


def _restart(ghost: Controlled, _signal: str | int | None) -> int:
    return restart(ghost) or terminal.say("Restart successful")


def _reload(ghost: Controlled, number: str | int | None) -> int:
    before = ghost._daemon.filepid.running()
    code = reload(ghost, number)
    return code or terminal.say(f"{'Reloading' if before else 'Running'} {ghost.pid}")


def _status(ghost: Controlled, _signal: str | int | None) -> int:
    try:
        pid = ghost._daemon.filepid.running()
    except PidfileError as error:
        terminal.complain(daemon.say(error))
        return UNKNOWN
    if pid:
        return terminal.say(f"Running {pid}")
    terminal.say("Not running")
    return DEAD_WITH_PIDFILE if ghost._daemon.filepid.exists() else NOT_RUNNING


def _run(ghost: Controlled, _signal: str | int | None) -> int:
    return run(ghost)


COMMANDS: dict[str, Callable[[Controlled, str | int | None], int]] = {
    "start": _start,
    "stop": _stop_command,
    "restart": _restart,
    "reload": _reload,
    "status": _status,
    "run": _run,
}


def ctrl(ghost: Controlled, command: str | None, number: str | int | None) -> int:
    """Obey one word; give the exit code."""
    if command is None:
        command = sys.argv[1] if len(sys.argv) > 1 else ""
    obey = COMMANDS.get(command)
    if obey is None:
        return terminal.complain(f"Command incorrect\nCommands: {', '.join(COMMANDS)}")
    try:
        return obey(ghost, number)
    except GhostError as error:
        return terminal.complain(daemon.say(error))
