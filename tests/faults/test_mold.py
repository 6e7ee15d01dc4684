"""Molds that fail: while they load, while they idle, and with the manager."""

from __future__ import annotations

import resource
import signal
import time

import pytest

from ghostd.unix import child
from tests.faults import kit, molding

HANGS = "import time\ntime.sleep(1000)\n"
HANGS_IN_C = """
import ctypes
ctypes.PyDLL(None).read(os.pipe()[0], ctypes.create_string_buffer(1), 1)
"""
"""With the interpreter's lock, so no handler of Python's runs."""
BROKEN = {
    "1 / 0": ("load() failed: ZeroDivisionError", 'app.py", line'),
    "def f(:": ("load() failed: SyntaxError", "def f(:"),
    "import sys; sys.exit('no database')": ("load() failed: SystemExit: no data",),
    "os._exit(3)": ("died before the code was loaded: exit code 3",),
    "os.kill(os.getpid(), 9)": ("died before the code was loaded: killed by SIGKILL",),
    "os.closerange(3, 100)\nimport time; time.sleep(1000)": (
        "died before the code was loaded: killed by SIGKILL",
    ),
    HANGS: ("has not loaded the code within 0.4 seconds", 'app.py", line 6 in'),
    HANGS_IN_C: ("has not loaded the code within 0.4 seconds", 'app.py", line 7 in'),
}


@pytest.mark.parametrize("code", BROKEN)
def test_a_broken_reload_costs_nothing(code: str) -> None:
    with molding.service(boot_timeout=0.4) as d:
        molding.up(d)
        before = d.spirits
        (mold,) = d.molds
        molding.deploy(d, code, version="two")
        d.signal(signal.SIGHUP)
        line = d.wait_for_line("Generation 1 is dropped, generation 0 goes on")
        d.wait_for(lambda: d.molds == [mold])

        story = d.log_text().partition(line)
        for words in BROKEN[code]:
            assert words in story[1] + story[2]
        assert d.spirits == before
        molding.deploy(d, version="three")
        d.signal(signal.SIGHUP)
        d.wait_for_line("Generation 2 has replaced all others")
        assert molding.versions(d, "two") == 0
        assert molding.versions(d, "three") == 3


def test_a_long_story_is_cut_whatever_is_in_it() -> None:
    with molding.service(r"raise ValueError(chr(0xDCFF) * 20_000)") as d:
        ended = d.ctrl("start")

        assert "load() failed: ValueError: ???" in ended.stderr
        assert 'app.py", line' in d.log_text()
        assert len(d.log_lines("Cannot start a spirit")[0]) < 1_200


@pytest.mark.parametrize("code", [HANGS_IN_C, "os._exit(3)"])
def test_a_start_that_cannot_load_gives_up(code: str) -> None:
    with molding.service(code, boot_timeout=0.4) as d:
        ended = d.ctrl("start")

        assert ended.returncode == 1
        assert BROKEN[code][0] in ended.stderr
        kit.nothing_runs(d)


def test_a_mold_that_dies_is_replaced_when_it_is_needed() -> None:
    with molding.service() as d:
        molding.up(d)
        (mold,), (embryo,) = d.molds, d.embryos
        before = d.spirits
        molding.deploy(d, version="two")
        d.signal(signal.SIGKILL, mold)
        d.wait_for_line(f"Mold {mold} died: killed by SIGKILL")
        d.wait_for_line(f"Mold {mold} stopped")
        d.wait_for(lambda: kit.is_gone(embryo))
        assert d.spirits == before
        assert d.molds == []
        molding.replace(d)

        d.wait_for_line(f"Generation 0 is loaded anew by mold {d.molds[0]}")
        assert d.spirits[:2] == before[1:]
        assert molding.versions(d, "two") == 1


def test_a_mold_that_dies_while_it_makes_embryos_fails_no_birth_for_long() -> None:
    with molding.service(spirits=8) as d:
        molding.up(d, 8)
        (mold,) = d.molds
        d.signal(signal.SIGSTOP, mold)
        for pid in d.spirits[:4]:
            d.kill_spirit(pid)
        d.wait_for(lambda: len(d.spirits) == 5, what="the embryo's birth")
        d.signal(signal.SIGKILL, mold)
        d.wait_for_line("Cannot start a spirit", f"mold {mold} died: killed by")
        d.wait_for(kit.healthy(d, 8))
        d.wait_for(molding.stocked(d))

        assert mold not in d.molds


def test_a_mold_that_is_stopped_is_replaced() -> None:
    with molding.service(boot_timeout=0.4) as d:
        molding.up(d)
        (mold,) = d.molds
        d.signal(signal.SIGSTOP, mold)
        for pid in d.spirits[:2]:
            d.kill_spirit(pid)
        d.wait_for_line(f"Mold {mold} is late (0.4 seconds), killing it")
        d.wait_for(kit.healthy(d))
        d.wait_for(molding.stocked(d))

        assert mold not in d.molds


def test_an_embryo_that_dies_is_missed_by_nobody() -> None:
    with molding.service() as d:
        molding.up(d)
        (embryo,) = d.embryos
        d.signal(signal.SIGKILL, embryo)
        d.wait_for(lambda: d.embryos == [] and not d.zombies)
        molding.replace(d)
        d.wait_for(molding.stocked(d))
        assert not d.log_lines("error", "embryo")


@pytest.mark.parametrize("which", ["==", "!="])
def test_forks_that_die_at_once_do_not_make_a_storm(which: str) -> None:
    """Those of the mold itself, or the embryos."""
    code = f"""
mold = os.getpid()
log = logging.getLogger("ghostd.service")
def end():
    if os.getppid() {which} mold:
        log.info("ends at once")
        os._exit(9)
os.register_at_fork(after_in_child=end)
"""
    with molding.service(code, spirits=1, start_timeout=0.3) as d:
        d.ctrl("start")
        d.wait_for_line("ends at once")
        kit.elapse(d, 0.3)

        assert len(d.log_lines("ends at once")) < 6


@pytest.mark.root
def test_a_manager_that_cannot_fork_a_mold_tries_again() -> None:
    with molding.service() as d:
        molding.up(d)
        forks = "clone,clone3,fork,vfork"
        with kit.injecting(d, d.pid, forks, "error=ENOMEM:when=1..2") as fault:
            molding.deploy(d, version="two")
            d.signal(signal.SIGHUP)
            d.wait_for_line("Cannot start a spirit", "memory", times=2)
            d.wait_for_line("Generation 1 has replaced all others")
            assert fault.hits == 2
        d.wait_for(lambda: kit.healthy(d)() and molding.stocked(d)())


@pytest.mark.parametrize("more", [5, 6, 7])
def test_a_manager_without_descriptors_waits_for_better_times(more: int) -> None:
    """Too few for a lifeline, for a mold, for an embryo."""
    with molding.service() as d:
        manager = molding.up(d)
        molding.deploy(d, version="two")
        soft, hard = resource.prlimit(manager, resource.RLIMIT_NOFILE)
        free = next(fd for fd in range(3, 99) if fd not in d.descriptors())
        resource.prlimit(manager, resource.RLIMIT_NOFILE, (free + more - 5, hard))
        d.signal(signal.SIGHUP)
        d.wait_for_line("Cannot start a spirit", "Too many open files", times=2)
        assert molding.versions(d, "one") == 3
        resource.prlimit(manager, resource.RLIMIT_NOFILE, (soft, hard))

        d.wait_for_line("Generation 1 has replaced all others")
        d.wait_for(lambda: kit.healthy(d)() and molding.stocked(d)())


@pytest.mark.root
def test_a_mold_that_cannot_fork_tries_again() -> None:
    with molding.service() as d:
        molding.up(d)
        (mold,) = d.molds
        forks = "clone,clone3,fork,vfork"
        with kit.injecting(d, mold, forks, "error=EAGAIN:when=1..2") as fault:
            for pid in d.spirits[:2]:
                d.kill_spirit(pid)
            d.wait_for_line("Cannot start a spirit", "temporarily unavailable")
            d.wait_for(kit.healthy(d))
            assert fault.hits == 2

        assert d.molds == [mold]


@pytest.mark.parametrize("code", [HANGS, HANGS_IN_C, ""])
def test_when_the_manager_is_killed_nothing_is_left(code: str) -> None:
    with molding.service() as d:
        molding.up(d)
        molding.deploy(d, code, version="two")
        if code:
            d.signal(signal.SIGHUP)
            d.wait_for(lambda: len(d.molds) == 2)
        else:
            d.signal(signal.SIGSTOP, d.molds[0])  # no reason to stay
        d.signal(signal.SIGKILL)

        kit.nothing_runs(d, 1.0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_a_stop_waits_for_no_mold_that_loads(number: int) -> None:
    with molding.service() as d:
        manager = molding.up(d)
        molding.deploy(d, HANGS_IN_C, version="two")
        d.signal(signal.SIGHUP)
        d.wait_for(lambda: len(d.molds) == 2)
        d.signal(number)

        d.wait_for_line(f"Manager {manager} stopped")
        assert len(d.log_lines("Mold", "stopped")) == 2
        kit.nothing_runs(d, 1.0)


def test_half_born_spirits_do_not_survive_a_stop() -> None:
    with molding.service(spirits=8) as d:
        molding.up(d, 8)
        d.signal(signal.SIGSTOP, d.molds[0])
        for pid in d.spirits[:6]:
            d.kill_spirit(pid)
        d.wait_for(lambda: len(d.spirits) == 3, what="the embryo's birth")
        d.signal(signal.SIGTERM)

        kit.nothing_runs(d, 5.0)
        assert molding.versions(d, "one") == 9


def test_orphans_of_spirits_are_buried_without_a_word() -> None:
    body = molding.BODY.replace(
        "while self.tick",
        """while self.tick() and not os.path.exists(HERE + "/go"):
            self.wait(0.02)
        if os.fork() == 0:
            if os.fork() == 0:
                time.sleep(0.1)
            os._exit(0)
        os.wait()
        while self.tick""",
    )
    with molding.service(body=body) as d:
        molding.up(d)
        (d.folder / "go").touch()
        d.wait_for(lambda: len(child.children_of(d.pid)) == 8, what="orphans")
        d.wait_for(lambda: len(child.children_of(d.pid)) == 5, what="burials")

        assert not d.log_lines("died", "error")
        molding.replace(d)


@pytest.mark.parametrize("doors", ["subreaper", "pdeathsig", "proc"])
def test_where_molds_cannot_be_each_spirit_loads(doors: str) -> None:
    with molding.service(env={"GHOSTD_CLOSED_DOORS": doors}) as d:
        kit.up(d)

        d.wait_for_line("preload=True changes nothing: ", "each spirit loads by itself")
        assert d.molds == []
        assert len(d.log_lines("imported by")) == 3


def test_molds_need_no_pidfd() -> None:
    with molding.service(env={"GHOSTD_CLOSED_DOORS": "pidfd"}) as d:
        molding.up(d)
        (mold,), (embryo,) = d.molds, d.embryos
        molding.replace(d)
        assert embryo in d.spirits
        d.wait_for(molding.stocked(d))
        d.signal(signal.SIGKILL, *d.embryos)
        d.wait_for(lambda: not d.embryos and not d.zombies, 3)
        d.signal(signal.SIGKILL, mold)
        d.wait_for_line(f"Mold {mold} stopped")
        molding.replace(d)
        d.wait_for_line("Generation 0 is loaded anew")


# -- without a mold ------------------------------------------------------------


@pytest.mark.parametrize("code", [HANGS, HANGS_IN_C])
def test_a_spirit_that_loads_leaves_at_once(code: str) -> None:
    with molding.service(preload=False) as d:
        kit.up(d)
        molding.deploy(d, code, version="two")
        d.signal(signal.SIGHUP)
        d.wait_for(lambda: len(d.spirits) == 4)
        d.wait_for(lambda: len(d.log_lines("imported by")) == 4)
        canary = d.spirits[-1]
        began = time.monotonic()
        d.signal(signal.SIGQUIT)
        d.wait_for_line(f"Spirit {canary} stopped")

        assert molding.took(began) < 1
        kit.nothing_runs(d, 2)
        assert not d.log_lines("died")
        assert not list(d.folder.glob("core*"))


def test_a_spirit_that_never_loads_is_dropped_with_its_generation() -> None:
    with molding.service(preload=False, boot_timeout=0.4) as d:
        kit.up(d)
        before = d.spirits
        molding.deploy(d, HANGS_IN_C, version="two")
        d.signal(signal.SIGHUP)
        d.wait_for_line("Generation 1 is dropped", "is not ready after 0.4")
        d.wait_for(lambda: d.spirits == before)

        assert not d.log_lines("died")
