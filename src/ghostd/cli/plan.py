"""
What a command line comes to, and doing it.

This is what runs in the process that becomes the manager, so it imports the standard
library only: nothing that reads command lines or configurations or watches files.
"""

from __future__ import annotations

import importlib
import marshal
import os
import sys
import time
from collections.abc import Callable
from signal import SIGHUP, SIGKILL

from ghostd import control, daemon
from ghostd.errors import GhostError
from ghostd.ghost import Ghost
from ghostd.prefork import Prefork
from ghostd.typed import Any
from ghostd.unix import fork, privilege, terminal
from ghostd.unix.child import Child, Ended
from ghostd.unix.poller import Poller
from ghostd.values import Value

WRONG = 1
"""Exit code of a command that did not do what was asked."""

BY_SIGNAL = 128
"""Added to the number of the signal that ended a child, as shells do."""

LOOK = 0.02


class Step(Value):
    """
    One daemon that something is to be done with.

    Attributes:
        name: how it is called.
        app: ``module:attribute`` to serve, or "".
        target: ``package.module:Class`` of a ghost, or "".
        keywords: for its constructor.
        known: what it takes to speak to it without its code, as keywords.
        environment: variables that it gets unless it has them already.
        folder: where a target's code is looked for first.
        limit: seconds that loading its code may take.
    """

    name: str
    app: str
    target: str
    keywords: dict[str, Any]
    known: dict[str, Any]
    environment: dict[str, str]
    folder: str
    limit: float


class Plan(Value):
    """
    What is to be done.

    Attributes:
        word: a command of `ghostd.control`, or ``check``.
        steps: with whom, one after another.
        wait: of a reload: until it is done.
        watch: what ``--reload`` was told; None: nothing is watched.
    """

    word: str
    steps: tuple[Step, ...]
    wait: bool = True
    watch: dict[str, Any] | None = None

    def write(self) -> bytes:
        """Make bytes of it, for the other end of a pipe to the same program."""
        steps = [each.plain() for each in self.steps]
        return marshal.dumps({**self.plain(), "steps": steps})

    @classmethod
    def read(cls, data: bytes) -> Plan:
        """Make it of the bytes that `write` made."""
        fields = marshal.loads(data)  # noqa: S302 - a child of ours has written it
        steps = tuple(Step(**each) for each in fields.pop("steps"))
        return cls(steps=steps, **fields)


# -- children that do one thing ------------------------------------------------


def aside(do: Callable[[], int]) -> Child:
    """Have a child do something; its exit code is what *do* gives, 1 if it raises."""
    fork.flush()
    pid = os.fork()
    if pid == 0:
        code = WRONG
        try:
            code = do()
        except KeyboardInterrupt:
            pass  # whoever typed it knows
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(bool(end.code))
        except BaseException as error:  # noqa: BLE001 - the frames below are not its own
            terminal.complain(daemon.say(error))
        finally:
            fork.flush()
            os._exit(code & 0xFF)
    return Child(pid)


def end_of(child: Child, limit: float | None = None) -> Ended | None:
    """Wait for the end of a child, at most *limit* seconds; None: it goes on."""
    poller = Poller()
    if child.fd >= 0:
        poller.add(child.fd)
    deadline = None if limit is None else time.monotonic() + limit
    try:
        while (ended := child.poll()) is None:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return None
            # Without a pidfd there is nothing to wait on but time.
            blind = min(LOOK, LOOK if left is None else left)
            poller.wait(left if child.fd >= 0 else blind)
    finally:
        poller.close()
    child.close()
    return ended


def code_of(ended: Ended) -> int:
    """Give the exit code that a shell would give."""
    if ended.code is not None:
        return ended.code
    return WRONG if ended.signal is None else BY_SIGNAL + ended.signal


def read_aside(reading: Callable[[], Plan | int]) -> Plan | int:
    """
    Have a child read the command line, and take over what it comes to.

    What reads it loads a hundred modules, and a manager that had them would keep them
    for life.

    Returns:
        The plan, or the exit code where nothing is left to do.
    """
    here, there = os.pipe()

    def read() -> int:
        answer = reading()
        if isinstance(answer, int):
            return answer
        with open(there, "wb") as file:
            file.write(answer.write())
        return 0

    child = aside(read)
    os.close(there)
    with open(here, "rb") as file:
        data = file.read()
    ended = end_of(child)
    code = WRONG if ended is None else code_of(ended)
    return Plan.read(data) if data and code == 0 else code


# -- doing it ------------------------------------------------------------------


def obey(plan: Plan) -> int:
    """Do what is planned; give the exit code, of several the largest."""
    if plan.watch is not None:
        from ghostd.cli import develop

        return develop.run(plan)
    if len(plan.steps) == 1 and plan.word != "check":
        return _obey(plan, plan.steps[0])
    # One process for each, so that their code and their log do not meet.
    several = len(plan.steps) > 1
    return max(_obey_aside(plan, step, several) for step in plan.steps)


def _obey_aside(plan: Plan, step: Step, several: bool) -> int:
    def do() -> int:
        if several:
            sys.stdout = _Named(f"{step.name}: ")
        return _obey(plan, step)

    child = aside(do)
    ended = end_of(child, step.limit if plan.word == "check" else None)
    if ended is None:
        child.send(SIGKILL)
        end_of(child)
        return terminal.complain(
            f"{step.name}: loading took longer than {step.limit:g} seconds"
        )
    if ended.code is None:
        terminal.complain(f"{step.name}: {ended.words}")
    return code_of(ended)


class _Named:
    """Standard output with the name of a daemon before each line."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._stream = sys.stdout

    def write(self, text: str) -> int:
        lines = text.splitlines(keepends=True)
        return self._stream.write(
            "".join(self._name + line if line.strip() else line for line in lines)
        )

    def flush(self) -> None:
        self._stream.flush()


def _obey(plan: Plan, step: Step) -> int:
    sys.argv = [step.name, plan.word]
    for name, value in step.environment.items():
        os.environ.setdefault(name, value)
    try:
        ghost = make(step)
        if plan.word == "check":
            return check(ghost)
    except Exception as error:  # noqa: BLE001 - a target's module may raise anything
        terminal.complain(f"{step.name}: {daemon.say(error)}")
        if plan.word not in ("stop", "status"):
            return WRONG
        # Nobody shall have to mend code to end a daemon.
        ghost = Prefork(**step.known, spirit=_nothing)
    except SystemExit as end:
        if plan.word != "check":
            raise
        return terminal.complain(f"{step.name}: its module exits, with {end.code!r}")
    if plan.word != "reload":
        return ghost.ctrl(plan.word)
    if not (step.app or step.target or ghost.status()):
        # Known by its pidfile alone: there is nothing that could be started.
        return terminal.complain("Not running")
    # A signal is sent, and not waited for.
    return ghost.ctrl("reload", None if plan.wait else SIGHUP)


def check(ghost: Ghost) -> int:
    """
    See whether a daemon could start, as far as that can be known without starting it.

    Its settings were checked when it was made. Here its rights are looked at and taken,
    and its application is loaded with them, as a spirit would.
    """
    identity = control._prepare(ghost)
    ghost.filepid.check()
    if identity is not None:
        daemon.load_late_modules()
        privilege.drop(identity)
    load = getattr(ghost, "load", None)
    if load is not None:
        load()
    return terminal.say("All is well")


def make(step: Step) -> Ghost:
    """
    Make the ghost of a step.

    Raises:
        GhostError: there is no such thing, or it is no ghost.
    """
    if step.target:
        return load(step.target, step.folder, **step.keywords)
    if step.app:
        from ghostd.http import HttpServer

        return HttpServer(app=step.app, **step.keywords)
    return Prefork(**step.keywords, spirit=_nothing)


def _nothing(_ghost: object) -> None:
    """Be the body of one that is spoken to only."""


def load(name: str, folder: str = "", /, **keywords: Any) -> Ghost:
    """
    Find a ghost by the name of its class, of an instance, or of a function.

    Args:
        name: ``package.module:Class``.
        folder: where to look first; "": the current one.
        keywords: for the class or the function.

    Raises:
        GhostError: there is no such module or name, or it is no ghost.
    """
    module_name, colon, path = name.partition(":")
    if not (module_name and colon and path):
        raise GhostError(f"{name!r} is not of the form package.module:Class")
    sys.path.insert(0, folder or os.getcwd())
    try:
        found = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise GhostError(f"no module {module_name!r}") from None
    for part in path.split("."):
        if not hasattr(found, part):
            raise GhostError(f"{module_name!r} has no {path!r}")
        found = getattr(found, part)
    if not callable(found) and keywords:
        words = ", ".join(keywords)
        raise GhostError(f"{name!r} is made already: {words} cannot be set any more")
    try:
        made = found(**keywords) if callable(found) else found
    except TypeError as error:
        if error.__traceback__ is None or error.__traceback__.tb_next is not None:
            raise  # it was called, and failed inside
        raise _no_ghost(name, f"cannot be called: {error}") from None
    if not isinstance(made, Ghost):
        raise _no_ghost(name, f"is a {type(made).__name__}, not a Ghost")
    return made


def _no_ghost(name: str, why: str) -> GhostError:
    error = GhostError(f"{name!r} {why}")
    error.add_note(f"If it is an application, use: ghostd serve {name}")
    return error
