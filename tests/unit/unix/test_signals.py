"""The signal inbox: flags that survive any storm, and handlers that are given back."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import TypeVar

import pytest
from tests.helpers import in_child

from ghostd.errors import GhostError
from ghostd.unix.signals import SignalInbox, forget_pending

T = TypeVar("T")

TTIN, TERM, USR1 = signal.SIGTTIN, signal.SIGTERM, signal.SIGUSR1


def with_inbox(body: Callable[[SignalInbox], T]) -> T:
    """Run *body* with an open inbox, in a child: handlers are of the process."""

    def run() -> T:
        inbox = SignalInbox([TTIN, TERM, USR1, signal.SIGCHLD])
        inbox.open()
        answer = body(inbox)
        inbox.close()
        return answer

    return in_child(run)


def test_what_is_noted_can_be_taken_once_and_wakes() -> None:
    def body(inbox: SignalInbox) -> tuple[object, ...]:
        quiet = not select.select([inbox.fd], [], [], 0)[0]
        signal.raise_signal(TERM)
        signal.raise_signal(TTIN)
        signal.raise_signal(TTIN)
        awake = bool(select.select([inbox.fd], [], [], 0)[0])
        return quiet, awake, list(inbox.take().items()), inbox.take()

    quiet, awake, noted, again = with_inbox(body)  # type: ignore[misc]
    assert quiet
    assert awake
    assert noted == [(TERM, 1), (TTIN, 2)], "in order of first arrival"
    assert again == {}


def test_what_came_while_it_was_blocked_can_be_forgotten() -> None:
    def body(inbox: SignalInbox) -> tuple[dict[int, int], dict[int, int]]:
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, [TTIN, TERM, USR1])
        for number in (TTIN, TERM, USR1):
            signal.raise_signal(number)
        forget_pending(but=TERM)
        before = inbox.take()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        return before, inbox.take()

    assert with_inbox(body) == ({}, {TERM: 1})


def test_a_storm_loses_no_flag() -> None:
    """S1: 100,000 signals overflow the pipe by far; the rare one is still there."""

    def body(inbox: SignalInbox) -> tuple[dict[int, int], bool]:
        for _ in range(50_000):
            signal.raise_signal(TTIN)
        signal.raise_signal(USR1)
        for _ in range(50_000):
            signal.raise_signal(TTIN)
        signal.raise_signal(TERM)
        noted = inbox.take()
        signal.raise_signal(USR1)
        return noted, inbox.take() == {USR1: 1}

    noted, alive = with_inbox(body)
    assert noted == {TTIN: 100_000, USR1: 1, TERM: 1}
    assert alive


def test_signals_from_outside_while_being_taken_are_not_lost() -> None:
    def body(inbox: SignalInbox) -> bool:
        sender = os.fork()
        if sender == 0:
            for _ in range(2000):
                os.kill(os.getppid(), TTIN)
            os.kill(os.getppid(), TERM)
            os._exit(0)
        seen: dict[int, int] = {}
        while TERM not in seen:
            select.select([inbox.fd], [], [], 10)
            for number, times in inbox.take().items():
                seen[number] = seen.get(number, 0) + times
        os.waitpid(sender, 0)
        return seen[TTIN] >= 1

    assert with_inbox(body)


def test_the_reaction_comes_after_the_note() -> None:
    def body(inbox: SignalInbox) -> tuple[list[int], dict[int, int]]:
        reacted: list[int] = []
        inbox.reaction = reacted.append
        signal.raise_signal(USR1)
        inbox.reaction = None
        signal.raise_signal(TERM)
        return reacted, inbox.take()

    assert with_inbox(body) == ([USR1], {USR1: 1, TERM: 1})


def test_handlers_of_the_users_are_adopted_and_their_signals_noted() -> None:
    def body(inbox: SignalInbox) -> tuple[object, ...]:
        called: list[int] = []

        def mine(number: int, _frame: object) -> None:
            called.append(number)

        signal.signal(signal.SIGHUP, mine)
        signal.signal(TERM, mine)
        signal.signal(USR1, signal.SIG_IGN)
        inbox.adopt()
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(TERM)
        signal.raise_signal(USR1)
        signal.raise_signal(TTIN)
        adopted = sorted(inbox.adopted)
        return called, adopted, inbox.take(), inbox.adopted[TERM] is mine

    called, adopted, noted, same = with_inbox(body)  # type: ignore[misc]
    assert called == []
    assert adopted == sorted([signal.SIGHUP, TERM])
    assert noted == {signal.SIGHUP: 1, TERM: 1, TTIN: 1}, "SIG_IGN stays"
    assert same


def test_everything_is_given_back() -> None:
    def body() -> bool:
        def old(number: int, _frame: object) -> None:
            """Be found again."""

        def later(number: int, _frame: object) -> None:
            """Be adopted."""

        _, write = os.pipe()
        os.set_blocking(write, False)
        signal.signal(TERM, old)
        signal.signal(USR1, signal.SIG_IGN)
        signal.set_wakeup_fd(write)
        signal.pthread_sigmask(signal.SIG_SETMASK, {USR1})
        inbox = SignalInbox([TERM, USR1])
        assert not inbox.is_open
        for _ in range(2):
            inbox.open()
            assert inbox.is_open
            assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()
            signal.signal(signal.SIGHUP, later)
            inbox.adopt()
            fd = inbox.fd
            inbox.close()
            inbox.close()
            assert not inbox.is_open
            assert signal.getsignal(TERM) is old
            assert signal.getsignal(USR1) == signal.SIG_IGN
            assert signal.getsignal(signal.SIGHUP) is later
            assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == {USR1}
            try:
                os.fstat(fd)
            except OSError:
                continue
            return False
        return signal.set_wakeup_fd(-1) == write

    assert in_child(body)


def test_inherited_masks_and_ignored_signals_are_taken_over() -> None:
    """S6: nohup ignores HUP, other supervisors block TERM; both survive an exec."""
    script = """
import os, signal
from ghostd.unix.signals import SignalInbox, forget_pending
inbox = SignalInbox([signal.SIGTERM, signal.SIGHUP])
inbox.open()
os.kill(os.getpid(), signal.SIGTERM)
os.kill(os.getpid(), signal.SIGHUP)
print(sorted(map(int, inbox.take())))
"""

    def block() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    ended = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=block,
    )
    assert ended.stdout == "[1, 15]\n"


def test_a_thread_is_refused_and_loses_nothing() -> None:
    def body() -> str:
        caught: list[str] = []

        def run() -> None:
            try:
                SignalInbox([TERM]).open()
            except GhostError as error:
                caught.append(str(error))

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        return caught[0]

    assert "main thread" in in_child(body)


def test_no_child_writes_into_its_parents_inbox() -> None:
    """S16: the wake-up descriptor is shared by a fork; here it is closed."""

    def body(inbox: SignalInbox) -> tuple[bool, dict[int, int]]:
        pid = os.fork()
        if pid == 0:
            # One that does nothing to whoever has no handler for it. A TTIN stops its
            # process, unless nobody could wake that: this test once hung in just
            # those sessions that have a shell above them.
            for _ in range(100):
                signal.raise_signal(signal.SIGCHLD)
            os._exit(0)
        os.waitpid(pid, 0)
        woken = select.select([inbox.fd], [], [], 0)[0]
        noted = inbox.take()
        return bool(woken) == bool(noted), noted

    agreed, noted = with_inbox(body)
    assert agreed, "woken by the child's end only"
    assert noted.get(signal.SIGCHLD, 0) <= 1


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSTOP"])
def test_what_cannot_be_caught_is_not_asked_for(name: str) -> None:
    from ghostd import daemon, manager

    assert getattr(signal, name) not in (*daemon.SIGNALS, *manager.SIGNALS)
