"""Processors, memory, containers, doors: what the machine around us says."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path

import pytest
from tests.helpers import in_child, living_child

from ghostd.unix import (
    cgroup,
    child,
    container,
    death,
    doors,
    memory,
    oom,
    processors,
)
from ghostd.unix.container import Term

# -- processors ----------------------------------------------------------------------


def test_the_affinity_mask_counts() -> None:
    first = min(os.sched_getaffinity(0))

    def pinned() -> int:
        os.sched_setaffinity(0, {first})
        return processors.usable()

    assert in_child(pinned) == 1
    assert 1 <= processors.usable() <= len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("quota", "usable"),
    [(0.2, 1), (1.0, 1), (1.5, 2), (3.0, 3), (100.0, 8), (float("inf"), 8)],
)
def test_a_quota_cuts_and_is_rounded_up(
    monkeypatch: pytest.MonkeyPatch, quota: float, usable: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)))
    monkeypatch.setattr(processors, "_quota", lambda: quota)
    assert processors.usable() == usable


def test_without_affinity_the_machine_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(processors, "_quota", lambda: float("inf"))
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert processors.usable() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert processors.usable() == 1


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Control groups of our own; which one is ours is written to `ours`."""
    monkeypatch.setattr(cgroup, "_ROOT", str(tmp_path))
    monkeypatch.setattr(cgroup, "_OURS", str(tmp_path / "ours"))
    return tmp_path


def test_the_tightest_quota_above_us_binds(groups: Path) -> None:
    (groups / "a" / "b").mkdir(parents=True)
    (groups / "ours").write_text("0::/a/b\n")
    assert processors._quota() == float("inf")  # noqa: SLF001
    (groups / "a" / "b" / "cpu.max").write_text("max 100000\n")
    (groups / "a" / "cpu.max").write_text("150000 100000\n")
    (groups / "cpu.max").write_text("400000 100000\n")
    assert processors._quota() == 1.5  # noqa: SLF001
    (groups / "ours").write_text("0::/\n")
    assert processors._quota() == 4.0  # noqa: SLF001


def test_the_older_control_groups_are_read_too(groups: Path) -> None:
    (groups / "cpu" / "a").mkdir(parents=True)
    (groups / "ours").write_text("5:memory:/b\n4:cpu,cpuacct:/not/seen/inside\n")
    assert processors._quota() == float("inf")  # noqa: SLF001
    (groups / "cpu" / "cpu.cfs_quota_us").write_text("200000\n")
    (groups / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert processors._quota() == 2.0  # noqa: SLF001
    (groups / "cpu" / "a" / "cpu.cfs_quota_us").write_text("-1\n")
    (groups / "cpu" / "a" / "cpu.cfs_period_us").write_text("100000\n")
    (groups / "ours").write_text("4:cpu,cpuacct:/a\n")
    assert processors._quota() == 2.0  # noqa: SLF001


@pytest.mark.usefixtures("groups")
def test_no_control_group_is_no_limit() -> None:
    assert processors._quota() == float("inf")  # noqa: SLF001
    assert memory.available() > 0


def test_the_tightest_limit_of_memory_binds(groups: Path) -> None:
    (groups / "a").mkdir()
    (groups / "ours").write_text("0::/a\n")
    (groups / "a" / "memory.max").write_text("max\n")
    (groups / "memory.max").write_text("50000000\n")
    assert memory.available() == 50_000_000


# -- memory --------------------------------------------------------------------------


def test_a_kill_for_lack_of_memory_is_noticed_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    events = tmp_path / "memory.events"
    events.write_text("low 0\nhigh 0\nmax 7\noom 1\noom_kill 2\noom_group_kill 0\n")
    monkeypatch.setattr(oom, "_paths", lambda: ["/no/such/file", str(events)])
    watch = oom.MemoryWatch()
    assert not watch.struck()
    with events.open("r+") as file:
        file.write("low 0\nhigh 0\nmax 7\noom 1\noom_kill 3\n")
    assert watch.struck()
    assert not watch.struck()
    watch.close()
    assert not watch.struck()


def test_without_a_counter_nothing_is_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oom, "_paths", list)
    watch = oom.MemoryWatch()
    assert not watch.struck()
    watch.close()


def test_the_counter_of_this_machine_can_be_read() -> None:
    watch = oom.MemoryWatch()
    assert watch.struck() in (True, False)
    watch.close()


# -- containers ----------------------------------------------------------------------


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(container, "_MARKS", ())
    return monkeypatch


def test_term_can_be_forced(bare: pytest.MonkeyPatch) -> None:
    bare.setenv("NOTIFY_SOCKET", "/run/notify")
    assert container.meaning_of_term("immediate") == Term(False, "term=immediate")
    assert container.meaning_of_term("graceful") == Term(True, "term=graceful")


@pytest.mark.usefixtures("bare")
def test_term_is_at_once_on_a_bare_machine() -> None:
    assert not container.meaning_of_term("auto").graceful


@pytest.mark.parametrize("name", ["NOTIFY_SOCKET", "KUBERNETES_SERVICE_HOST"])
def test_term_is_graceful_where_the_environment_says_so(
    bare: pytest.MonkeyPatch, name: str
) -> None:
    bare.setenv(name, "")
    assert not container.meaning_of_term("auto").graceful
    bare.setenv(name, "x")
    term = container.meaning_of_term("auto")
    assert term.graceful
    assert name in term.why


def test_term_is_graceful_in_a_container(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    monkeypatch.setattr(container, "_MARKS", (str(mark),))
    assert not container.meaning_of_term("auto").graceful
    mark.touch()
    assert container.meaning_of_term("auto").graceful


def test_term_is_graceful_for_pid_1(bare: pytest.MonkeyPatch) -> None:
    bare.setattr(os, "getpid", lambda: 1)
    assert container.meaning_of_term("auto").graceful


def test_only_pid_1_and_subreapers_inherit_orphans(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert not container.inherits_orphans()

    def subreaper() -> bool:
        import ctypes

        death.prepare()
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
        return container.inherits_orphans()

    if doors.PDEATHSIG and doors.PROC:
        assert in_child(subreaper)
    monkeypatch.setattr(os, "getpid", lambda: 1)
    assert container.inherits_orphans() == doors.PROC
    monkeypatch.setattr(doors, "PROC", False)
    assert not container.inherits_orphans()


# -- the parent's death ----------------------------------------------------------------


def test_the_kernel_tells_of_the_parents_death() -> None:
    import signal

    if not doors.PDEATHSIG:
        pytest.skip("this door is closed")
    news, tell = os.pipe()

    def parent() -> None:
        death.prepare()
        if os.fork() == 0:
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGQUIT})
            assert death.arm(signal.SIGQUIT)
            os.write(tell, b"armed")
            if signal.sigtimedwait({signal.SIGQUIT}, 20):
                os.write(tell, b"told")
            os._exit(0)
        assert os.read(news, 5) == b"armed"

    with living_child(parent) as pid:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        assert select.select([news], [], [], 10)[0]
        assert os.read(news, 4) == b"told"
    os.close(news)
    os.close(tell)


def test_where_the_kernel_cannot_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    import signal

    monkeypatch.setattr(death, "_prctl", None)
    assert not death.arm(signal.SIGQUIT)
    assert not death.is_subreaper()
    assert not death.adopt_orphans(True)


def test_a_subreaper_inherits_orphans_until_it_has_enough() -> None:
    if not doors.SUBREAPER:
        pytest.skip("this door is closed")

    def orphan() -> bool:
        """Tell whether an orphan of ours is our child."""
        read, write = os.pipe()
        still, hold = os.pipe()
        between = os.fork()
        if between == 0:
            os.close(hold)
            if os.fork() == 0:
                os.write(write, str(os.getpid()).encode())
                os.read(still, 1)
            os._exit(0)
        os.waitpid(between, 0)
        pid = int(os.read(read, 20))
        mine = child.is_mine(pid)
        os.close(hold)
        if mine:
            os.waitpid(pid, 0)
        return mine

    def body() -> list[bool]:
        death.prepare()
        found = [orphan(), death.adopt_orphans(True), death.is_subreaper(), orphan()]
        return [*found, death.adopt_orphans(False), death.is_subreaper(), orphan()]

    assert in_child(body) == [False, True, True, True, True, False, False]


# -- doors ---------------------------------------------------------------------------


def test_doors_are_closed_by_name() -> None:
    code = (
        "from ghostd.unix import doors as d; print(d.PIDFD, d.EPOLL, d.PROC, d.PIPE2)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "GHOSTD_CLOSED_DOORS": "pidfd,proc"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout == "False True False True\n"


@pytest.mark.skipif("GHOSTD_CLOSED_DOORS" in os.environ, reason="this is the inner run")
@pytest.mark.parametrize(
    "closed", ["pidfd,pdeathsig,epoll,pipe2,proc,subreaper", "pidfd"]
)
def test_everything_holds_with_the_doors_closed(closed: str) -> None:
    """The fallbacks, on a machine that would never use them."""
    ended = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "tests/unit/unix",
        ],
        env={**os.environ, "GHOSTD_CLOSED_DOORS": closed},
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[3],
    )
    assert ended.returncode == 0, ended.stdout[-6000:]
