"""What holds for every test: this process is left as it was found."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ghostd.unix import fork
from tests import helpers

RULED_OUT = ("NOTIFY_SOCKET", "KUBERNETES_SERVICE_HOST", "LISTEN_PID", "LISTEN_FDS")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs root where we are not root."""
    if os.geteuid() != 0:
        for item in items:
            if item.get_closest_marker("root"):
                item.add_marker(pytest.mark.skip(reason="needs root"))


@pytest.fixture(autouse=True, scope="session")
def plain_environment() -> None:
    """Hide from the daemon where the tests themselves run."""
    for name in RULED_OUT:
        os.environ.pop(name, None)


def _children() -> list[str]:
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return file.read().split()


def _handlers() -> dict[int, object]:
    return {
        n: signal.getsignal(n) for n in signal.valid_signals() if n != signal.SIGALRM
    }


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Fail a test that leaves a descriptor, a child, a handler, a log or a mask."""
    before = helpers.open_fds()
    handlers = _handlers()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    umask = os.umask(0o022)
    os.umask(umask)
    folder = os.getcwd()
    private = fork.private()
    yield
    for name in list(logging.Logger.manager.loggerDict):
        if name.startswith("ghostd"):
            for handler in list(logging.getLogger(name).handlers):
                logging.getLogger(name).removeHandler(handler)
                handler.close()
    more = {fd: name for fd, name in helpers.open_fds().items() if fd not in before}
    assert not more, "descriptors were left open"
    assert fork.private() == private, "private descriptors were left on the list"
    children = _children()
    for pid in children:
        os.kill(int(pid), signal.SIGKILL)
        os.waitpid(int(pid), 0)
    assert not children, "children were left"
    assert _handlers() == handlers, "signal handlers were left"
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask, "a mask was left"
    assert os.umask(umask) == umask, "an umask was left"
    assert os.getcwd() == folder, "the folder was left"


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Give a folder that other users can enter; pytest's own are closed to them."""
    folder = Path(tempfile.mkdtemp(prefix="ghostd-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)
