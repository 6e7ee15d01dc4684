"""Molds as a user sees them: loaded once, memory shared, new code at each reload."""

from __future__ import annotations

import os
import re
import signal

import pytest
from tests.faults import kit, molding

from ghostd.testing import Daemon


def importers(d: Daemon) -> list[int]:
    """Say who has imported the application."""
    return [int(line.split()[-1]) for line in d.log_lines("imported by")]


def mapped(pid: int, name: str) -> int:
    """Give a figure of a process in KiB: Pss, Private_Dirty ..."""
    with open(f"/proc/{pid}/smaps_rollup") as file:
        return int(re.findall(rf"^{name}: +(\d+) kB", file.read(), re.MULTILINE)[0])


def test_the_application_is_loaded_once_and_never_by_the_manager() -> None:
    with molding.service() as d:
        manager = molding.up(d)
        (mold,) = d.molds

        assert importers(d) == [mold]
        assert molding.versions(d, "one") == 3
        for pid in (mold, *d.spirits, *d.embryos):
            assert kit.status(pid)["PPid"] == str(manager)
        d.stop()
        told = [
            line
            for line in d.log_text().splitlines()
            if re.search(r"Mold|Manager", line)
        ]
        whole = [line.partition("] ")[2].partition("] ")[2][7:] for line in told]
        assert whole == [
            f"Manager {manager} started",
            f"Mold {mold} started (generation 0)",
            whole[2],
            f"Mold {mold} stopped",
            f"Manager {manager} stopped",
        ]
        assert whole[2].startswith(f"Mold {mold} is ready after ")


def test_without_preload_each_spirit_loads_by_itself() -> None:
    with molding.service(preload=False) as d:
        kit.up(d)

        assert sorted(importers(d)) == sorted(d.spirits)
        assert d.molds == d.embryos == []


def test_a_spirit_that_dies_is_replaced_by_one_that_waited_for_it() -> None:
    with molding.service() as d:
        molding.up(d)
        for _ in range(3):
            d.wait_for(molding.stocked(d))
            (embryo,) = d.embryos
            molding.replace(d)

            assert embryo in d.spirits
        assert len(importers(d)) == 1
        assert not d.log_lines("error", "Mold")


def test_a_pool_is_far_larger_than_its_stock() -> None:
    with molding.service(spirits=40) as d:
        molding.up(d, 40)
        d.signal(signal.SIGTTIN)
        d.wait_for(kit.healthy(d, 41))

        assert len(importers(d)) == 1


def test_new_code_is_loaded_by_a_new_mold_and_old_code_lives_as_long() -> None:
    wait = "import time\nwhile not os.path.exists('go'): time.sleep(0.01)\n"
    wait = wait.replace("'go'", "os.path.dirname(__file__) + '/go'")
    with molding.service() as d:
        molding.up(d)
        (old,) = d.molds
        molding.deploy(d, wait, version="two")
        d.signal(signal.SIGHUP)
        d.wait_for(lambda: len(importers(d)) == 2)
        assert len(d.molds) == 2
        molding.replace(d)

        assert molding.versions(d, "one") == 4
        assert molding.versions(d, "two") == 0
        (d.folder / "go").touch()
        d.wait_for_line("Generation 1 has replaced all others")
        d.wait_for(lambda: kit.healthy(d)() and molding.stocked(d)())
        assert molding.versions(d, "two") == 3
        assert importers(d) == [old, *d.molds]
        assert old not in d.molds
        molding.replace(d)
        assert molding.versions(d, "two") == 4


def test_a_reload_during_a_reload_leaves_one_mold() -> None:
    with molding.service() as d:
        molding.up(d)
        molding.deploy(d, "import time; time.sleep(1000)", version="two")
        d.signal(signal.SIGHUP)
        d.wait_for(lambda: len(importers(d)) == 2)
        molding.deploy(d, version="three")
        d.signal(signal.SIGHUP)
        d.wait_for_line("Generation 2 has replaced all others")
        d.wait_for(molding.stocked(d))

        assert molding.versions(d, "two") == 0
        assert molding.versions(d, "three") == 3


def test_what_is_loaded_stays_shared_after_a_full_collection() -> None:
    heap = "heap = [[i, [str(i)]] for i in range(200_000)]\n"
    body = molding.BODY.replace(
        "while self.tick",
        "import gc; gc.collect(); self.log.info('collected')\n        while self.tick",
    )
    with molding.service(heap, body=body, spirits=2) as d:
        molding.up(d, 2)
        d.wait_for_line("collected", times=2)
        (mold,) = d.molds
        assert mapped(mold, "Rss") > 40_000

        for pid in d.spirits:
            assert mapped(pid, "Private_Dirty") < 8_000


def test_signals_to_a_mold_or_to_an_embryo_mean_nothing() -> None:
    with molding.service() as d:
        molding.up(d)
        (mold,), (embryo,) = d.molds, d.embryos
        for pid in (mold, embryo):
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                d.signal(number, pid)
        d.signal(signal.SIGQUIT, mold)
        molding.replace(d)
        assert embryo in d.spirits
        # By name, as whoever comes from a mold is listed when the one between ended.
        victim = next(pid for pid in d.spirits if pid != embryo)
        d.kill_spirit(victim)
        d.wait_for(lambda: victim not in d.spirits and kit.healthy(d)())

        # An embryo has the mold's name until it has given itself its own.
        d.wait_for(lambda: d.molds == [mold], what="no mold but the first")
        assert embryo in d.spirits
        assert not d.log_lines("died", "SIGTERM")


@pytest.mark.parametrize("preload", [True, False])
def test_a_start_whose_code_does_not_load_says_why(preload: bool) -> None:
    with molding.service("1 / 0", preload=preload) as d:
        ended = d.ctrl("start")

        assert ended.returncode == 1
        assert "ZeroDivisionError" in ended.stderr
        assert 'app.py", line' in ended.stderr
        kit.nothing_runs(d)


def test_nobody_has_a_descriptor_of_another() -> None:
    with molding.service() as d:
        molding.up(d)
        molding.replace(d)
        d.wait_for(molding.stocked(d))

        def kinds(pid: int) -> list[str]:
            names = [n for fd, n in d.descriptors(pid).items() if fd > 2]
            return sorted(name.split(":")[0] for name in names)

        for spirit in d.spirits:
            # Its lifeline, the manager's presence, its own wake-up pipe.
            assert kinds(spirit) == [str(d.logfile), "pipe", "pipe", "pipe", "pipe"]
        for other in (*d.molds, *d.embryos):
            # The manager's presence, and its channel to the manager.
            assert kinds(other) == [str(d.logfile), "pipe", "socket"]


def test_threads_that_load_leaves_are_named() -> None:
    thread = """
import threading, time
for name in ("pump", "drain"):
    threading.Thread(target=time.sleep, args=(100,), name=name, daemon=True).start()
"""
    with molding.service(thread, env={"PYTHONWARNINGS": "error"}) as d:
        molding.up(d)

        line = d.wait_for_line("load() has left threads that no spirit will have")
        assert line.endswith(": pump, drain")
        assert kit.status(d.spirits[0])["Threads"] == "1"


def test_preload_with_nothing_to_load_says_so() -> None:
    with kit.service(preload=True) as d:
        kit.up(d)

        d.wait_for_line("preload=True changes nothing: there is no load()")
        assert d.molds == []


@pytest.mark.root
def test_a_mold_has_given_up_its_rights() -> None:
    with molding.service(user="nobody", group="nogroup") as d:
        for path in (d.folder, *d.folder.iterdir()):
            os.chown(path, 65534, 65534)
        molding.up(d)

        for pid in (*d.molds, *d.embryos, *d.spirits):
            assert kit.status(pid)["Uid"].split() == ["65534"] * 4
        molding.replace(d)


def test_what_load_sets_up_belongs_to_the_spirit() -> None:
    """Hooks given as keywords count, too."""
    body = """
class Service(Prefork):
    pass

def load(self):
    self.loaded = os.getpid()
    assert not self.is_spirited and self.ok and self.pool == {}

def body(self):
    self.log.info("loaded by %d", self.loaded)
    while self.tick():
        self.wait(0.5)

SETTINGS.update(load=load, spirit=body)
"""
    with molding.service(body=body) as d:
        molding.up(d)

        d.wait_for_line(f"loaded by {d.molds[0]}", times=3)
