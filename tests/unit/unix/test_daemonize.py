"""Becoming a daemon: what the launcher hears, and what the daemon lets go."""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Iterator

import pytest
from tests.helpers import in_child, is_open, open_fds

from ghostd.unix import daemonize, doors, fork
from ghostd.unix.daemonize import Report, Verdict


@pytest.fixture
def line() -> Iterator[tuple[int, Report]]:
    read, write = os.pipe()
    report = Report(write)
    yield read, report
    report.close()
    os.close(read)


def soon() -> float:
    return time.monotonic() + 10


def past() -> float:
    return time.monotonic() - 1


def test_ready_is_up(line: tuple[int, Report]) -> None:
    read, report = line
    report.pid()
    report.ready()
    assert daemonize.listen(read, soon()) == Verdict(up=True, pid=os.getpid())


def test_a_failure_is_told_when_the_daemon_is_gone(line: tuple[int, Report]) -> None:
    read, report = line
    report.pid()
    report.failed("Traceback\nno \N{SNOWMAN} here\0 today")
    report.close()
    verdict = daemonize.listen(read, past())
    assert verdict == Verdict(
        False, os.getpid(), "Traceback\nno \N{SNOWMAN} here today"
    )


def test_after_a_failure_it_waits_for_the_end_beyond_any_deadline() -> None:
    """Nothing shall be left running when `start` says that it failed."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        Report(write).failed("no")
        time.sleep(0.3)
        os._exit(0)
    os.close(write)
    assert select.select([read], [], [], 10)[0]
    began = time.monotonic()
    assert daemonize.listen(read, past()) == Verdict(up=False, pid=0, reason="no")
    assert time.monotonic() - began > 0.2
    os.waitpid(pid, 0)
    os.close(read)


def test_one_that_is_still_on_its_way_at_the_deadline_is_up(
    line: tuple[int, Report],
) -> None:
    read, report = line
    report.pid()
    began = time.monotonic()
    verdict = daemonize.listen(read, began + 0.05)
    assert (verdict.up, verdict.pid, verdict.reason) == (True, os.getpid(), "")
    assert verdict.notes == ("It is still on its way: no word from it yet",)
    assert 0.04 <= time.monotonic() - began < 5


def test_a_silent_end_is_a_failure_with_words(line: tuple[int, Report]) -> None:
    read, report = line
    report.close()
    verdict = daemonize.listen(read, soon())
    assert not verdict.up
    assert "said nothing" in verdict.reason


def test_a_silent_end_after_the_pid_names_it(line: tuple[int, Report]) -> None:
    read, report = line
    report.pid()
    report.close()
    assert f"Process {os.getpid()}" in daemonize.listen(read, soon()).reason


def test_words_that_come_in_pieces_are_put_together(line: tuple[int, Report]) -> None:
    read, report = line

    def speak() -> None:
        for byte in b"pid 77\0failed so \xc3\xa4 it is\0":
            os.write(report._fd, bytes([byte]))  # noqa: SLF001

    speak()
    report.close()
    assert daemonize.listen(read, soon()) == Verdict(False, 77, "so ä it is")


def test_nobody_has_to_be_listening() -> None:
    report = Report()
    report.pid()
    report.ready()
    report.failed("to whom?")
    read, write = os.pipe()
    os.close(read)
    report = Report(write)
    report.pid()
    report.ready()
    report.ready()


def test_a_very_long_reason_is_cut(line: tuple[int, Report]) -> None:
    read, report = line
    report.failed("x" * 100_000)
    report.close()
    assert 10_000 < len(daemonize.listen(read, soon()).reason) < 33_000


# -- descriptors -----------------------------------------------------------------------


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1), (0, 1, 2)])
def test_closed_standard_streams_are_plugged(closed: tuple[int, ...]) -> None:
    """Or the pidfile would become standard output."""

    def plug() -> dict[int, str]:
        before = open_fds()
        for fd in closed:
            os.close(fd)
        daemonize.open_standard_streams()
        after = open_fds()
        assert set(after) == set(before)
        return {fd: after[fd] for fd in closed}

    assert in_child(plug) == dict.fromkeys(closed, os.devnull)


def test_open_standard_streams_stay() -> None:
    before = open_fds()
    daemonize.open_standard_streams()
    assert open_fds() == before


def test_inherited_are_those_that_survive_an_exec() -> None:
    ours = os.open(os.devnull, os.O_RDONLY)
    theirs, meant = (os.open(os.devnull, os.O_RDONLY) for _ in range(2))
    os.set_inheritable(theirs, True)
    os.set_inheritable(meant, True)
    try:
        found = daemonize.inherited({meant})
        assert theirs in found
        assert ours not in found
        assert meant not in found
        assert not set(found) & {0, 1, 2}
    finally:
        for fd in (ours, theirs, meant):
            os.close(fd)


def test_inherited_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doors, "PROC", False)
    fd = os.open(os.devnull, os.O_RDONLY)
    os.set_inheritable(fd, True)
    assert fd in daemonize.inherited(set())
    os.close(fd)


@pytest.mark.parametrize(
    ("pid", "fds", "meant"),
    [
        ("me", "2", {3, 4}),
        ("me", "0", set()),
        ("1", "2", set()),
        ("", "2", set()),
        ("me", "-1", set()),
        ("me", "abc", set()),
        ("me", "١", set()),  # noqa: RUF001
        ("me", "10000000", set()),
        ("me", None, set()),
        (None, "2", set()),
    ],
)
def test_only_descriptors_passed_to_this_process_are_meant(
    monkeypatch: pytest.MonkeyPatch, pid: str | None, fds: str | None, meant: set[int]
) -> None:
    """K10: LISTEN_FDS for another process, or nonsense."""
    values = {
        "LISTEN_PID": str(os.getpid()) if pid == "me" else pid,
        "LISTEN_FDS": fds,
    }
    for name, value in values.items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert daemonize.activated() == meant


def test_let_go() -> None:
    def body() -> tuple[object, ...]:
        for stream in (sys.__stdout__, sys.__stderr__):
            if stream is not None:
                stream.close()
        theirs, meant = (os.open(os.devnull, os.O_RDONLY) for _ in range(2))
        os.set_inheritable(theirs, True)
        os.set_inheritable(meant, True)
        for fd in range(3):
            os.close(fd) if is_open(fd) else None
        daemonize.open_standard_streams()
        keep = daemonize.inherited(set())
        daemonize.let_go(0o027, set(keep) - {theirs})
        umask = os.umask(0)
        streams = {open_fds()[fd] for fd in range(3)}
        return streams, is_open(theirs), is_open(meant), umask, os.getcwd()

    folder = "/" if os.geteuid() == 0 else os.getcwd()
    assert in_child(body) == ({os.devnull}, False, True, 0o027, folder)


def test_detach_makes_an_orphan_that_leads_no_session() -> None:
    """A session's leader could get a terminal again; the daemon is none."""

    def body() -> tuple[object, ...]:
        read, write = fork.pipe()
        os.set_blocking(read, True)
        me = os.getpid()
        between, report = daemonize.detach((read, write))
        if report is not None:
            os.setpgid(0, 0) if os.getpgid(0) == me else None
            report.failed(f"{os.getpid()} {os.getsid(0)} {int(is_open(read))}")
            report.close()
            os._exit(0)
        os.waitpid(between, 0)
        pid, sid, reachable = map(int, daemonize.listen(read, soon()).reason.split())
        return pid not in (me, between), sid == between, sid != pid, bool(reachable)

    assert in_child(body) == (True, True, True, False)
