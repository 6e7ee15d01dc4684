"""What a daemon is started from: a closing terminal, odd signals, many at once."""

from __future__ import annotations

import signal
import sys

import pytest

from ghostd.unix import child
from tests.faults import kit

ODD = """
import os, signal, sys
for word in sys.argv[1].split(","):
    how, _, name = word.partition(":")
    number = getattr(signal, "SIG" + name)
    if how == "ignore":
        signal.signal(number, signal.SIG_IGN)
    else:
        signal.pthread_sigmask(signal.SIG_BLOCK, {number})
os.execvp(sys.argv[2], sys.argv[2:])
"""


def test_a_terminal_that_closes_after_the_start_means_nothing() -> None:
    with kit.service() as d:
        run = d.run_foreground("start", terminal=True)
        assert run.wait() == 0
        d.wait_for(kit.healthy(d))
        manager, lives = d.pid, d.spirits
        assert f"Running {manager}" in run.screen
        # A shell that hangs up sends HUP to its jobs, a terminal to its session.
        run.hang_up()
        dead = d.kill_spirit()
        d.wait_for(lambda: dead not in d.spirits and kit.healthy(d)())

        assert d.pid == manager
        assert d.spirits[:2] == lives[1:]
        assert not d.log_lines("Generation")
        with open(f"/proc/{manager}/stat", "rb") as file:
            session, terminal = file.read().rpartition(b")")[2].split()[3:5]
        assert terminal == b"0"
        assert int(session) != manager, "a session leader could get a terminal again"


def test_a_foreground_daemon_whose_terminal_closes_ends_without_orphans() -> None:
    """HUP is hangup() to ghostd; after it, what is written to the terminal is lost."""
    with kit.service(logfile=None, env={"PYTHONUNBUFFERED": None}) as d:
        run = d.run_foreground("run", terminal=True)
        d.wait_for(lambda: run.screen.count("is healthy") == 3)
        lives = child.children_of(run.pid)
        run.hang_up()
        d.wait_for(
            lambda: not set(lives) & set(child.children_of(run.pid)),
            what="new spirits, which hangup() asks for",
        )
        assert run.returncode is None
        run.signal(signal.SIGTERM)

        assert run.wait() == 0


@pytest.mark.parametrize(
    "odd",
    [
        "ignore:CHLD",
        "block:CHLD",
        "block:TERM,block:QUIT,block:HUP,block:CHLD,block:USR1",
        "ignore:HUP,ignore:TERM,ignore:QUIT,ignore:INT,ignore:PIPE",
    ],
)
def test_signals_that_the_parent_ignored_or_blocked_work_again(odd: str) -> None:
    with kit.service() as d:
        through = (sys.executable, "-c", ODD, odd)
        shown = d.run(*through, "grep", "^Sig[BI]", "/proc/self/status").stdout
        masks = [int(line.split()[1], 16) for line in shown.splitlines()]
        for word in odd.split(","):
            bit = 1 << (signal.Signals[f"SIG{word.partition(':')[2]}"] - 1)
            assert any(mask & bit for mask in masks)

        started = kit.start_by(d, *through)
        assert started.returncode == 0, started.stderr
        assert started.stdout == f"Running {d.pid}\n"
        d.wait_for(kit.healthy(d))
        manager = d.pid
        dead = d.kill_spirit()
        d.wait_for_line(f"Spirit {dead} died: killed by SIGKILL")
        d.wait_for(kit.healthy(d))
        d.signal(signal.SIGHUP)
        d.wait_for_line("Generation 1 is good: replacing 3 spirits")
        d.wait_for(kit.healthy(d))
        everybody = (manager, *d.spirits)
        # For the microseconds of a fork a manager blocks them itself.
        d.wait_for(lambda: not any(int(kit.status(p)["SigBlk"], 16) for p in everybody))
        d.signal(signal.SIGTERM)

        d.wait_for_line(f"Ghost process {manager} stopped")
        kit.nothing_runs(d)


@pytest.mark.parametrize("many", [6, 20])
def test_of_many_starts_at_once_one_wins_and_the_others_know_whom(many: int) -> None:
    with kit.service() as d:
        text = (
            f"i=0; while [ $i -lt {many} ]; do i=$((i+1));"
            f" ({sys.executable} {d.script} start >out.$i 2>err.$i; echo $? >code.$i) &"
            " done; wait"
        )
        d.run("sh", "-c", text)
        codes = [
            (d.folder / f"code.{i}").read_text().strip() for i in range(1, many + 1)
        ]
        outs = [(d.folder / f"out.{i}").read_text() for i in range(1, many + 1)]
        errors = [(d.folder / f"err.{i}").read_text() for i in range(1, many + 1)]
        d.wait_for(kit.healthy(d))

        assert sorted(codes) == ["0"] + ["1"] * (many - 1)
        assert outs.count(f"Running {d.pid}\n") == 1
        assert errors.count(f"Already running {d.pid}\n") == many - 1
        assert len(d.log_lines("Manager", "started")) == 1
        assert len(d.processes) == 4
        assert [path.name for path in d.folder.glob("*.pid*")] == ["service.pid"]


@pytest.mark.parametrize("dead", [False, True])
def test_many_restarts_at_once_leave_one_daemon(dead: bool) -> None:
    with kit.service() as d:
        manager = kit.up(d)
        if dead:
            d.signal(signal.SIGKILL)
            d.wait_for(lambda: kit.is_gone(manager))
        text = (
            "for i in 1 2 3 4 5 6; do"
            f" ({sys.executable} {d.script} restart 2>>errors; echo $? >>codes) &"
            " done; wait"
        )
        d.run("sh", "-c", text)
        d.wait_for(kit.healthy(d))

        assert "0\n" in (d.folder / "codes").read_text()
        assert len(d.processes) == 4
