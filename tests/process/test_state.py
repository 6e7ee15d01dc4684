"""What a daemon is: its descriptors, folder, mask, streams, session and rights."""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path

import pytest
from tests.helpers import NOBODY
from tests.process.scripts import ghost, pool

from ghostd.testing import Daemon


def status(pid: int) -> dict[str, list[str]]:
    with open(f"/proc/{pid}/status") as file:
        pairs = (line.split(":", 1) for line in file)
        return {name: rest.split() for name, rest in pairs}


def stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


@pytest.mark.parametrize("make", [pool, ghost])
def test_the_daemon_has_let_go(make: object) -> None:
    with Daemon(make()) as d:  # type: ignore[operator]
        d.start()
        pid = d.pid
        _state, parent, group, session, terminal = stat(pid)[:5]
        assert terminal == "0"
        assert int(parent) != os.getpid()
        assert session != str(pid), "the leader could get a terminal again"
        assert group == session
        cwd = os.readlink(f"/proc/{pid}/cwd")
        assert cwd == ("/" if os.geteuid() == 0 else str(d.folder))
        names = d.descriptors()
        assert [names[fd] for fd in range(3)] == [os.devnull] * 3


def test_the_descriptors_of_a_plain_ghost_are_these_and_no_other() -> None:
    with Daemon(ghost()) as d:
        d.start()
        names = d.descriptors()
        kinds = sorted(
            re.sub(r"\[.*|.*/|d\.pid\..*", "", n) or "pid" for n in names.values()
        )
        rest = [n for n in names.values() if n != os.devnull]
        assert len(names) == 3 + len(rest), kinds
        files = [Path(n.removesuffix(" (deleted)")).name for n in rest if "/" in n]
        assert len([f for f in files if f.startswith("d.pid")]) == 1
        assert files.count("d.log") == 1
        pipes = [n for n in rest if n.startswith("pipe:")]
        assert len(set(pipes)) == 1, "both ends of the signal inbox"
        assert len(rest) == 2 + len(pipes) == 4


@pytest.mark.skipif("GHOSTD_CLOSED_DOORS" in os.environ, reason="other descriptors")
def test_the_descriptors_of_a_manager_are_these_and_no_other() -> None:
    with Daemon(pool(spirits=3)) as d:
        d.start()
        d.wait_for(lambda: d.healthy == 3)
        names = [n for n in d.descriptors().values() if n != os.devnull]
        files = [n for n in names if n.startswith("/")]
        named = {Path(n).name.partition(" ")[0] for n in files}
        assert {n for n in named if "d.pid" not in n} <= {
            "d.log",
            "memory.events",
            "memory.oom_control",
        }
        assert len(files) <= 3
        assert names.count("anon_inode:[pidfd]") == 3
        assert names.count("anon_inode:[eventpoll]") == 1
        pipes = [n for n in names if n.startswith("pipe:")]
        assert len(set(pipes)) == 2 + 3, "inbox, presence, three lifelines"
        assert len(pipes) == 4 + 3
        sockets = [n for n in names if n.startswith("socket:")]
        assert len(sockets) == 1, "where commands ask"
        assert len(names) == len(files) + 3 + 1 + len(pipes) + 1


def test_the_count_of_descriptors_does_not_grow() -> None:
    with Daemon(pool()) as d:
        d.start()
        d.wait_for(lambda: d.healthy == 2)
        before = len(d.descriptors())
        for _ in range(10):
            killed = d.kill_spirit()
            d.wait_for(lambda pid=killed: d.healthy == 2 and pid not in d.spirits)  # type: ignore[misc]
        d.signal(signal.SIGHUP)
        d.wait_for_line("Generation 1 has replaced all others")
        d.wait_for(lambda: len(d.spirits) == 2)
        d.wait_for(lambda: len(d.descriptors()) == before)


def test_inherited_descriptors_are_closed_and_ours_are_kept() -> None:
    """What the caller left open goes; what the script opened itself stays."""
    head = "mine = open(os.devnull)\n"
    members = "def init(self):\n    mine.read()\n    self.log.info('mine is open')\n"
    with Daemon(pool(members, head=head)) as d:
        (d.folder / "theirs").touch()
        run = f"exec 7<theirs 9<theirs; {sys.executable} {d.script} start"
        assert d.run("/bin/sh", "-c", run).returncode == 0
        assert d.log_lines("mine is open")
        for pid in (d.pid, *d.spirits):
            assert not any("theirs" in n for n in d.descriptors(pid).values())


@pytest.mark.parametrize("closed", ["0<&-", "0<&- 1>&- 2>&-"])
def test_closed_standard_streams_do_not_become_the_log(closed: str) -> None:
    with Daemon(pool()) as d:
        d.run("/bin/sh", "-c", f"{sys.executable} {d.script} start {closed}")
        names = d.wait_for(d.descriptors)
        assert [names[fd] for fd in range(3)] == [os.devnull] * 3


def test_prints_of_a_daemon_disappear_and_do_no_harm() -> None:
    members = """
    def spirit(self):
        print("to nowhere", flush=True)
        sys.stderr.write("to nowhere")
        input_ = sys.stdin.read()
        while self.tick():
            self.wait(5)
    """
    with Daemon(pool(members)) as d:
        ended = d.start()
        assert ended.stdout == f"Running {d.pid}\n"
        assert ended.stderr == ""


def test_what_the_script_printed_before_comes_out_once() -> None:
    """U11."""
    head = "sys.stdout.write('head '); sys.stderr.write('error ')\n"
    with Daemon(pool(head=head, spirits=4)) as d:
        ended = d.start()
        d.kill_spirit()
        d.wait_for(lambda: d.healthy == 4)
        assert ended.stdout == f"head Running {d.pid}\n"
        assert ended.stderr == "error "


@pytest.mark.parametrize("umask", [None, 0, 0o027, 0o077])
def test_the_mask(umask: int | None) -> None:
    members = """
    def init(self):
        with open(os.path.join(FOLDER, "made"), "w"):
            pass
    """
    head = "FOLDER = os.getcwd(); os.umask(0o111)\n"
    settings = {} if umask is None else {"umask": umask}
    with Daemon(pool(members, head=head, **settings)) as d:
        d.start()
        wanted = 0o022 if umask is None else umask
        mode = (d.folder / "made").stat().st_mode & 0o777
        assert mode == 0o666 & ~wanted
        assert d.pidfile.stat().st_mode & 0o777 == 0o644
        assert d.logfile.stat().st_mode & 0o777 == 0o640 & ~wanted


# -- rights ----------------------------------------------------------------------------


@pytest.mark.root
@pytest.mark.parametrize("make", [pool, ghost])
def test_root_is_given_up(make: object) -> None:
    """Verified in /proc, in the daemon and in its spirits."""
    with Daemon(make(user="nobody")) as d:  # type: ignore[operator]
        d.start()
        for pid in (d.pid, *d.spirits):
            found = status(pid)
            assert found["Uid"] == [str(NOBODY)] * 4
            assert found["Gid"] == [str(NOBODY)] * 4
            assert "0" not in found["Groups"]
            assert found["CapEff"] == ["0" * 16]
            assert found["CapPrm"] == ["0" * 16]
        d.stop()
        assert not d.pidfile.exists(), "stop clears away what the daemon may not"


@pytest.mark.root
def test_user_and_group() -> None:
    with Daemon(pool(user="nobody", group=12345)) as d:
        d.start()
        found = status(d.pid)
        assert found["Uid"] == [str(NOBODY)] * 4
        assert found["Gid"] == ["12345"] * 4
        assert "12345" in found["Groups"]


@pytest.mark.root
def test_a_group_alone_and_root_itself() -> None:
    with Daemon(pool(group=12345)) as d:
        d.start()
        found = status(d.pid)
        assert (found["Uid"], found["Gid"]) == (["0"] * 4, ["12345"] * 4)
    with Daemon(pool(user="root")) as d:
        d.start()
        assert status(d.pid)["Uid"] == ["0"] * 4


@pytest.mark.root
def test_preinit_is_still_root_and_init_is_not() -> None:
    members = """
    def preinit(self):
        self.before = os.geteuid()
    def init(self):
        self.log.info("before %d after %d", self.before, os.geteuid())
        try:
            os.setuid(0)
        except PermissionError:
            self.log.info("no way back")
    """
    with Daemon(pool(members, user="nobody")) as d:
        d.start()
        assert d.log_lines(f"before 0 after {NOBODY}")
        assert d.log_lines("no way back")


@pytest.mark.root
def test_a_log_in_a_folder_of_roots_is_written_by_the_daemon() -> None:
    """It is opened before the drop and belongs to the daemon's user."""
    with Daemon(pool(user="nobody", logfile="logs/d.log"), logfile="logs/d.log") as d:
        (d.folder / "logs").mkdir(mode=0o755)
        d.start()
        info = d.logfile.stat()
        assert (info.st_uid, info.st_gid) == (NOBODY, NOBODY)
        d.kill_spirit()
        d.wait_for_line("killed by SIGKILL")
        d.signal(signal.SIGUSR1)
        d.kill_spirit()
        d.wait_for_line("killed by SIGKILL", times=2)


@pytest.mark.root
def test_spirits_that_became_nobody_are_still_stopped_and_orphans_leave() -> None:
    """PDEATHSIG is cleared by setuid: it must be armed after it."""
    with Daemon(pool(user="nobody")) as d:
        d.start()
        d.signal(signal.SIGKILL)
        d.wait_for(lambda: not d.processes, 5)


@pytest.mark.root
def test_another_user_is_told_the_truth() -> None:
    """He sees that it runs, and nothing is sent when he says stop."""
    as_nobody = """
    if len(sys.argv) > 2:
        os.setgroups([]); os.setgid(65534); os.setuid(65534)
    """
    with Daemon(pool(head=as_nobody)) as d:
        d.start()
        pid = d.pid
        ended = d.ctrl("status", "as nobody")
        assert (ended.returncode, ended.stdout, ended.stderr) == (
            0,
            f"Running {pid}\n",
            "",
        )
        for word in ("stop", "restart", "reload"):
            ended = d.ctrl(word, "as nobody")
            assert ended.returncode == 1
            assert "belongs to another user" in ended.stderr
        assert d.ctrl("start", "as nobody").stderr == f"Already running {pid}\n"
        assert d.pid == pid


# -- the foreground --------------------------------------------------------------------


def test_in_the_foreground_nothing_is_detached() -> None:
    with Daemon(pool()) as d:
        run = d.run_foreground()
        d.wait_for(lambda: d.healthy == 2)
        assert d.pid == run.pid, "no fork"
        assert os.readlink(f"/proc/{run.pid}/cwd") == str(d.folder)
        assert d.ctrl("status").stdout == f"Running {run.pid}\n"
        assert d.ctrl("start").returncode == 1
        assert d.ctrl("stop").returncode == 0
        assert run.wait() == 0


def test_in_the_foreground_the_log_is_standard_error() -> None:
    script = pool().replace("logfile='d.log', ", "")
    with Daemon(script) as d:
        run = d.run_foreground()
        d.wait_for(lambda: run.stderr.count("is healthy") == 2)
        assert f"[info] Ghost process {run.pid} started" in run.stderr
        d.signal(signal.SIGTERM)
        assert run.wait() == 0
        assert run.stderr.endswith(f"Ghost process {run.pid} stopped\n")
        assert run.stdout == ""


def test_ctrl_c_on_a_terminal_is_one_shutdown() -> None:
    """S9: INT reaches the whole group; the manager decides."""
    members = "def finish(self, graceful):\n    self.log.info('finish %s', graceful)\n"
    with Daemon(pool(members)) as d:
        run = d.run_foreground(terminal=True)
        d.wait_for(lambda: d.healthy == 2)
        run.type("\x03")
        assert run.wait() == 0
        assert len(d.log_lines("finish")) == 1
        assert d.log_lines("finish False")
        assert not d.processes
        assert "Traceback" not in run.screen


def test_a_plain_ghost_in_the_foreground_gives_its_exit_code() -> None:
    with Daemon(ghost("def startup(self):\n    return 5\n")) as d:
        assert d.run_foreground().wait() == 5
    with Daemon(ghost("def startup(self):\n    raise ValueError\n")) as d:
        assert d.run_foreground().wait() == 1


# -- daemonize() by hand ---------------------------------------------------------------

BY_HAND = """
g = Ghost(logfile="d.log", pidfile="d.pid")
{0}
if sys.argv[1] == "stop":
    sys.exit(g.ctrl())
print("before")
atexit.register(lambda: g.log.info("atexit of %d", os.getpid()))
g.daemonize()
g.log.info("by hand %s %s", g.is_daemonized, g.pid == os.getpid())
while g.ok:
    g.wait(5)
g.log.info("end of the script")
"""


def test_daemonize_by_hand() -> None:
    head = BY_HAND.format("")
    with Daemon(ghost(head=head)) as d:
        ended = d.ctrl("go")
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "before\n", "")
        d.wait_for_line("by hand True True")
        pid = d.pid
        assert d.ctrl("go").returncode == 1, "Already running, as an exception"
        d.stop()
        assert d.log_lines("end of the script")
        assert len(d.log_lines(f"atexit of {pid}")) == 1
        assert not d.pidfile.exists()


def test_a_pool_may_run_without_daemonizing() -> None:
    """startup() called directly."""
    script = pool().replace(".ctrl())", ".startup())")
    with Daemon(script) as d:
        run = d.run_foreground()
        d.wait_for_line("is healthy", times=2)
        assert not d.pidfile.exists()
        run.signal(signal.SIGQUIT)
        assert run.wait() == 0
        assert d.log_lines(f"Manager {run.pid} stopped")
        assert not d.processes


def test_set_uid_and_set_gid_by_hand() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    members = """
    def init(self):
        self.set_gid("12345 7").set_uid("nobody")
    """
    with Daemon(pool(members)) as d:
        d.start()
        found = status(d.pid)
        assert found["Uid"] == [str(NOBODY)] * 4
        assert found["Gid"] == ["12345"] * 4
        assert found["Groups"] == ["7", "12345"]
