"""Disks that are full, read-only or away: the service goes on and says what it lost."""

from __future__ import annotations

import errno
import os
import re
import shlex
import signal
import sys
from pathlib import Path

import pytest

from ghostd.testing import Daemon
from tests.faults import kit

LOST = re.compile(r"\] \[(\d+)\] \[warn\] (\d+) log lines were lost")

DIARY = """
class Service(Prefork):
    def spirit(self):
        number = 0
        while self.tick():
            number += 1
            self.log.info("mark %d %s", number, "x" * 200)
            self.wait(0.01)
"""


def in_private_mounts(d: Daemon, text: str) -> tuple[int, str, str]:
    """Run a piece of shell where mounts are nobody else's."""
    ended = d.run(kit.need("unshare", "util-linux"), "--mount", "sh", "-euc", text)
    return ended.returncode, ended.stdout, ended.stderr


def start(d: Daemon) -> str:
    return shlex.join((sys.executable, str(d.script), "start"))


def fill(path: Path) -> None:
    """Leave not one page of a file system free."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        while os.write(fd, b"x" * 4096):
            pass
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
    finally:
        os.close(fd)


def test_a_log_that_takes_nothing_hurts_nobody() -> None:
    with (
        open("/dev/full", "wb", buffering=0) as full,
        pytest.raises(OSError, match="28"),
    ):
        full.write(b"x")
    with kit.service(logfile="/dev/full") as d:
        d.start()
        manager, dead = d.pid, d.kill_spirit()
        d.wait_for(lambda: dead not in d.spirits and len(d.spirits) == 3)
        d.signal(signal.SIGTTIN)
        d.wait_for(lambda: len(d.spirits) == 4)

        assert d.pid == manager


@pytest.mark.root
def test_what_a_full_disk_cost_is_counted_to_the_line() -> None:
    with kit.service(DIARY, logfile="disk/service.log", spirits=2) as d:
        (d.folder / "disk").mkdir()
        mount = "mount -t tmpfs -o size=256k none disk"
        code, _, error = in_private_mounts(d, f"{mount}; {start(d)}")
        assert code == 0, error
        manager = d.pid
        disk = Path(f"/proc/{manager}/root{d.folder}/disk")
        log = disk / "service.log"
        d.wait_for(lambda: "mark 5 " in log.read_text())
        fill(disk / "filler")
        # At the end of its last page even the log cannot grow.
        d.wait_for(lambda: log.stat().st_size % 4096 == 0, what="a full page")

        dead, survivor = d.spirits
        d.kill_spirit(dead)
        d.wait_for(lambda: dead not in d.spirits and len(d.spirits) == 2)
        d.signal(signal.SIGTTIN)
        d.wait_for(lambda: len(d.spirits) == 3)
        kit.elapse(d, 0.2)  # a few lost marks of each
        (disk / "filler").unlink()
        # These two have lost some for sure, whoever was born meanwhile perhaps not.
        losers = {str(survivor), str(manager)}
        d.signal(signal.SIGTTOU)
        d.wait_for(
            lambda: losers <= {pid for pid, _ in LOST.findall(log.read_text())},
            what="a count of both",
        )
        text = log.read_text()

        assert d.pid == manager
        lost = LOST.findall(text)
        assert len({pid for pid, _ in lost}) == len(lost), "a count was told twice"
        for pid, count in lost:
            if pid != str(manager):
                marks = re.findall(rf"\[{pid}\] \[info\] mark (\d+) x{{200}}\n", text)
                missing = set(range(1, int(marks[-1]))) - {int(m) for m in marks}
                assert int(count) == len(missing)
        # A line that was cut by the end of the disk, wherever, stands alone.
        lines = [line for line in text.split("\n") if line]
        torn = [n for n in lines if not kit.LINE.fullmatch(n)]
        cut = [n for n in lines if "mark" in n and not n.endswith("x" * 200)]
        assert len({*torn, *cut}) <= 1
        assert all(line.count("] [") <= 2 for line in lines), "two in one line"


@pytest.mark.root
@pytest.mark.parametrize(
    ("mount", "words"),
    [
        (
            "-o size=4k none disk; ! head -c 9000 /dev/zero >disk/filler",
            "No space left",
        ),
        ("-o size=64k,nr_inodes=1 none disk", "No space left"),
        ("-o ro none disk", "Read-only file system"),
    ],
    ids=["no room", "no inode", "read-only"],
)
def test_a_pidfile_that_cannot_be_written_ends_the_start_in_words(
    mount: str, words: str
) -> None:
    with kit.service(pidfile="disk/service.pid") as d:
        (d.folder / "disk").mkdir()
        prove = (
            "! dd if=/dev/zero of=disk/probe count=1 2>proof; rm -f disk/probe || true"
        )
        text = (
            f"mount -t tmpfs {mount} 2>/dev/null; {prove}; set +e;"
            f"{start(d)}; echo exit $?; ls -A disk"
        )
        _, output, error = in_private_mounts(d, text)

        assert words in (d.folder / "proof").read_text()
        assert output.replace("filler\n", "") == "exit 1\n"
        assert "service did not start: pidfile" in error
        assert words in error
        kit.nothing_runs(d)


@pytest.mark.root
def test_a_log_on_a_read_only_disk_ends_the_start_in_words() -> None:
    with kit.service(logfile="disk/service.log") as d:
        (d.folder / "disk").mkdir()
        mount = "mount -t tmpfs -o ro none disk; set +e"
        code, _, error = in_private_mounts(d, f"{mount}; {start(d)}")

        assert code == 1
        assert "log " in error
        assert "Read-only file system" in error
        assert not kit.leftovers(d)
        kit.nothing_runs(d)


@pytest.mark.parametrize("how", ["removed", "folder removed"])
def test_a_log_that_goes_away_comes_back_when_it_can(how: str) -> None:
    with kit.service(logfile="logs/service.log") as d:
        folder = d.folder / "logs"
        folder.mkdir()
        kit.up(d)
        (folder / "service.log").unlink()
        if how == "folder removed":
            folder.rmdir()
            dead = d.kill_spirit()
            d.wait_for(lambda: dead not in d.spirits and len(d.spirits) == 3)
            folder.mkdir()
        dead = d.kill_spirit()

        d.wait_for_line(f"Spirit {dead} stopped")
        assert os.stat(folder / "service.log").st_mode & 0o777 == 0o640
