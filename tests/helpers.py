"""What several tests need: forked children, and looks at this very process."""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn, TypeVar

T = TypeVar("T")

LIMIT = 15.0
NOBODY = 65534


def in_child(function: Callable[[], T]) -> T:
    """Run *function* in a forked child; give its result, or raise its failure here."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        _answer(function, write)
    os.close(write)
    data = b""
    try:
        deadline = time.monotonic() + LIMIT
        while True:
            left = max(0.0, deadline - time.monotonic())
            if not select.select([read], [], [], left)[0]:
                os.kill(pid, signal.SIGKILL)
                raise AssertionError(
                    f"the child had no answer within {LIMIT:g} seconds"
                )
            chunk = os.read(read, 65536)
            if not chunk:
                break
            data += chunk
    finally:
        os.close(read)
        status = os.waitpid(pid, 0)[1]
    if not data:
        ended = os.waitstatus_to_exitcode(status)
        raise AssertionError(f"the child ended with {ended} and no answer")
    good, value = pickle.loads(data)  # noqa: S301 - our own child
    if not good:
        raise AssertionError(f"in the child:\n{value}")
    return value


def _answer(function: Callable[[], object], write: int) -> NoReturn:
    # The test runner's alarm clock, which is a handler but not a timer of ours.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    try:
        try:
            answer = (True, function())
        except BaseException:  # noqa: BLE001 - all of it belongs into the report
            answer = (False, traceback.format_exc())
        os.set_blocking(write, True)
        with open(write, "wb") as file:
            file.write(pickle.dumps(answer))
    finally:
        os._exit(0)


@contextlib.contextmanager
def living_child(function: Callable[[], object] = lambda: None) -> Iterator[int]:
    """Have a child that ran *function* and waits to be killed; give its pid."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(read)
            function()
            os.write(write, b"!")
            while True:
                signal.pause()
        finally:
            os._exit(1)
    os.close(write)
    try:
        ready = select.select([read], [], [], LIMIT)[0] and os.read(read, 1)
        assert ready, "the child did not come up"
        yield pid
    finally:
        os.close(read)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)


def wait_for(condition: Callable[[], T], limit: float = LIMIT) -> T:
    """Wait until *condition* gives something true; give that."""
    deadline = time.monotonic() + limit
    while not (result := condition()):
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.005)
    return result


def open_fds() -> dict[int, str]:
    """Map the open descriptors of this process to what they are."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return found


def is_open(fd: int) -> bool:
    """Tell whether a descriptor is open."""
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def may_enter(path: str) -> bool:
    """Tell whether anybody may enter all the folders that lead to *path*."""
    return all(folder.stat().st_mode & 0o001 for folder in Path(path).resolve().parents)
