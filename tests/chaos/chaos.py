"""
Chaos: kill, stop, flood and starve real daemons, then count what is there.

    python tests/chaos/chaos.py --minutes 10 --seed 7   # storms
    python tests/chaos/chaos.py --kills 10000           # one spirit after another
    python tests/chaos/chaos.py --manager-kills 200
    python tests/chaos/chaos.py --jobs 20000            # examples/08_jobs.py
    python tests/chaos/chaos.py --minutes 10 --preload  # molds and embryos suffer, too

Several may be given. The seed is printed first and decides every choice that is made
here; what the machine's scheduler makes of it is not in our hands.

After each mode exactly the wanted number of healthy spirits is there, no zombie, no
orphan (everything runs below a subreaper, see `ghostd.testing.Daemon`), no descriptor
and no memory more than at the beginning, and each life had its hooks, once, in order.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import select
import signal
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from ghostd.testing import Daemon

SPIRITS = 6
GRACE = 0.3
WARM_UP = 100
"""Kills before the memory of the manager counts as that of the beginning."""

PRELOAD = "CHAOS_PRELOAD"
"""The variable by which --preload reaches whom it concerns."""

SERVICE = """
import json, os, sys, time
from ghostd import Prefork

HERE = os.path.dirname(os.path.abspath(__file__))
PRELOAD = "CHAOS_PRELOAD" in os.environ

class Service(Prefork):
    lives, born, buried, wrong = {}, 0, 0, []

    def note(self, pid, before, after):
        if self.lives.get(pid, "dead") not in before:
            self.wrong.append((pid, self.lives.get(pid), after))
        self.lives[pid] = after
        if after == "dead":
            del self.lives[pid]  # or this would be the memory that grows

    def spawn(self, pid):
        self.born += 1
        self.note(pid, ("dead",), "born")

    def heartbeat(self, pid):
        self.note(pid, ("born", "beating"), "beating")

    def reap(self, pid):
        self.buried += 1
        self.note(pid, ("born", "beating"), "dead")

    def cleanup(self, scope):
        with open(HERE + "/ledger", "w") as file:
            json.dump([self.born, self.buried, self.wrong, list(self.lives)], file)

    if PRELOAD:
        def load(self):
            self.graph = [[number, [str(number)]] for number in range(10_000)]

    def spirit(self):
        self.tick()
        stamp = f"{self.pid} {self.slot} {time.monotonic()}\\n".encode()
        fd = os.open(HERE + "/stamps", os.O_WRONLY)
        os.write(fd, stamp)
        os.close(fd)
        while os.path.exists(HERE + "/deaf"):
            time.sleep(1000)  # one that never looks
        while self.tick():
            if LOAD:
                until = time.perf_counter() + 0.001
                while time.perf_counter() < until:
                    pass
            self.wait(0.004 if LOAD else 1)

if __name__ == "__main__":
    sys.exit(Service(
        logfile="service.log", pidfile="service.pid", term="immediate",
        spirits=SPIRITS, heartbeat_interval=0.1, heartbeat_timeout=BEAT,
        graceful_timeout=GRACE, restart_budget=100_000,  # a storm is no reason to wait
        preload=PRELOAD, boot_timeout=10,
    ).ctrl())
"""


class Failure(AssertionError):
    """Something was not as promised."""


def expect(truth: object, what: str) -> None:
    """
    Fail if it is not so.

    Raises:
        Failure: it is not.
    """
    if not truth:
        raise Failure(what)


def service(*, load: bool = False, beat: float = 5, grace: float = 0.5) -> Daemon:
    """Make the daemon that is to suffer."""
    head = f"LOAD, BEAT, GRACE = {load}, {beat}, {grace}\nSPIRITS = {SPIRITS}\n"
    return Daemon(head + SERVICE, limit=60)


class Stamps:
    """What newborn spirits say of themselves: pid, place, and when they first beat."""

    def __init__(self, d: Daemon) -> None:
        """Make the pipe, before the daemon starts."""
        path = d.folder / "stamps"
        os.mkfifo(path)
        self.fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        self.place: dict[int, int] = {}
        self.at: dict[int, float] = {}
        self.holder: dict[int, int] = {}
        self._rest = b""

    def read(self, seconds: float = 0.0) -> None:
        """Take in what has been said; wait for it at most so long."""
        if select.select([self.fd], [], [], seconds)[0]:
            *lines, self._rest = (self._rest + os.read(self.fd, 65536)).split(b"\n")
            for line in lines:
                pid, place, at = line.split()
                self.place[int(pid)] = int(place)
                self.at[int(pid)] = float(at)
                self.holder[int(place)] = int(pid)

    def close(self) -> None:
        """Close the pipe."""
        os.close(self.fd)


@contextlib.contextmanager
def suffering(d: Daemon) -> Iterator[tuple[Daemon, Stamps]]:
    """Start the daemon; at the end stop it and look at what is left."""
    with d:
        stamps = Stamps(d)
        try:
            d.start()
            complete(d)
            yield d, stamps
        finally:
            stamps.close()


def complete(d: Daemon, number: int = SPIRITS, limit: float = 60) -> None:
    """Wait for exactly so many spirits, all of them healthy."""
    d.wait_for(
        lambda: len(d.spirits) == number == d.healthy,
        limit,
        f"{number} healthy spirits",
    )
    if PRELOAD in os.environ:
        d.wait_for(lambda: is_stocked(d), limit, "an embryo in stock")


def is_stocked(d: Daemon) -> bool:
    """Tell whether there are one mold and one embryo, and the manager holds both."""
    pidfds = [name for name in d.descriptors().values() if "[pidfd]" in name]
    helpers = (len(d.molds), len(d.embryos))
    return helpers == (1, 1) and len(pidfds) == len(d.spirits) + 2


def resident(pid: int) -> int:
    """Give the resident memory of a process, in kB."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+) kB", text)[0])


def spread(seconds: list[float]) -> str:
    """Say p50, p99 and the maximum, in milliseconds."""
    ordered = sorted(seconds)
    p50, p99 = (ordered[int(len(ordered) * part)] for part in (0.5, 0.99))
    figures = (1000 * value for value in (p50, p99, ordered[-1]))
    return "p50 {:.1f}  p99 {:.1f}  max {:.1f} ms".format(*figures)


def kill(pid: int, number: int = signal.SIGKILL) -> bool:
    """Send a signal; False: it is gone already."""
    try:
        door = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        signal.pidfd_send_signal(door, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(door)
    return True


class Before:
    """The manager as it was, to be compared with what it becomes."""

    def __init__(self, d: Daemon) -> None:
        """Look at it."""
        self._d = d
        self.pid = d.pid
        self.spirits = len(d.spirits)
        self.descriptors = len(d.descriptors())
        self.memory = resident(self.pid)

    def compare(self, most: int = 1024) -> str:
        """
        Say how it has changed.

        Raises:
            Failure: it is another process, or has more of something.
        """
        d = self._d
        expect(d.pid == self.pid, "the manager is another one")
        d.wait_for(lambda: not d.zombies, 5, "no zombie")
        # A reload may still be on its way, with a spirit more for a moment.
        d.wait_for(self._is_no_more, 60, f"{self.descriptors} descriptors again")
        now = resident(self.pid)
        expect(now < self.memory + most, f"memory: {self.memory} -> {now} kB")
        memory = f"memory {self.memory} -> {now} kB"
        return f"descriptors {self.descriptors} as before  {memory}"

    def _is_no_more(self) -> bool:
        """Tell whether no more descriptors are open for as many spirits."""
        same = len(self._d.spirits) == self.spirits
        return same and len(self._d.descriptors()) <= self.descriptors


def ledger(d: Daemon) -> tuple[int, int]:
    """
    Stop the daemon; give its births and burials.

    Raises:
        Failure: a life had its hooks twice, or in another order.
    """
    d.stop()
    expect(not d.processes, f"left behind: {d.processes}")
    born, buried, wrong, living = json.loads((d.folder / "ledger").read_text())
    expect(not wrong, f"hooks out of order: {wrong[:5]}")
    expect(not living, f"never reaped: {living}")
    expect(born == buried, f"{born} births and {buried} burials")
    return born, buried


# -- modes ---------------------------------------------------------------------


def kills(many: int, chance: random.Random) -> str:
    """Kill spirits at random, one to three at a time, and wait for their heirs."""
    took: list[float] = []
    done = 0
    with suffering(service()) as (d, stamps):
        before = Before(d)
        while done < many:
            if done >= WARM_UP > done - 3:
                complete(d)
                before = Before(d)
            stamps.read(0.0)
            places = chance.sample(
                range(SPIRITS), min(chance.randint(1, 3), many - done)
            )
            victims = {place: stamps.holder[place] for place in places}
            # Within a few milliseconds of its birth, or after a while: both happen.
            if chance.random() < 0.05:
                select.select([], [], [], chance.uniform(0, 0.01))
            began = time.monotonic()
            for pid in victims.values():
                expect(kill(pid), f"{pid} was dead before it was killed")
            until = began + 10
            while any(stamps.holder[p] == pid for p, pid in victims.items()):
                expect(time.monotonic() < until, f"nobody took the places of {victims}")
                stamps.read(0.1)
            took += [stamps.at[stamps.holder[place]] - began for place in places]
            done += len(places)
        complete(d)
        text = before.compare()
        born, _ = ledger(d)
        expect(born == many + SPIRITS, f"{born} births for {many} kills")
    return f"{many} kills: {spread(took)}  {text}"


def manager_kills(many: int, chance: random.Random) -> str:
    """Kill the manager at any moment; its spirits go, and the next start works."""
    lookers: list[float] = []
    sleepers: list[float] = []
    early = 0
    with service(grace=GRACE) as d:
        stamps = Stamps(d)
        deaf = d.folder / "deaf"
        try:
            for _ in range(many):
                # Some never look: the kernel and their own watch have to end them.
                sleep = chance.random() < 0.25
                deaf.touch() if sleep else deaf.unlink(missing_ok=True)
                if chance.random() < 0.25:
                    early += 1
                    manager = _caught_starting(d, chance)
                else:
                    d.start()
                    manager = d.pid
                    complete(d)
                (sleepers if sleep else lookers).append(_bereave(d, manager))
                stamps.read(0.0)
            deaf.unlink(missing_ok=True)
            d.start()
            complete(d)
            ledger(d)
        finally:
            stamps.close()
    return (
        f"{many} kills of the manager ({early} while it started), until its spirits "
        f"are gone: {spread(lookers)}; such as never look, with {GRACE} s of grace: "
        f"{spread(sleepers)}"
    )


def _caught_starting(d: Daemon, chance: random.Random) -> int:
    """Begin a start, and give the manager's pid some moments later."""
    d.run_foreground("start")
    manager = d.wait_for(lambda: d.pid, what="a manager")
    select.select([], [], [], chance.uniform(0, 0.02))
    return manager


def _bereave(d: Daemon, manager: int) -> float:
    """Kill the manager; give the seconds until nobody of it was left."""
    began = time.monotonic()
    expect(kill(manager), "the manager was dead before it was killed")
    # By a look every millisecond; what starts it may have a word to say as well.
    while d.processes:
        expect(time.monotonic() < began + 1, f"orphans after a second: {d.processes}")
        select.select([], [], [], 0.001)
    return time.monotonic() - began


def jobs(many: int, chance: random.Random, script: Path | None = None) -> str:
    """Kill the workers of examples/08_jobs.py; every job is done exactly once."""
    if script is None:
        script = Path(__file__).parents[2] / "examples/08_jobs.py"
    killed = left = 0
    with Daemon(
        script, env={"JOBS": None}, pidfile="daemon.pid", logfile="daemon.log"
    ) as d:
        file = d.folder / "jobs.db"
        d.start()
        with contextlib.closing(sqlite3.connect(file, timeout=30)) as db:
            numbers = [(chance.randrange(10**6),) for _ in range(many)]
            began = time.monotonic()
            turns: list[Callable[[], object]] = [
                lambda: d.signal(signal.SIGHUP),
                lambda: (d.stop(), d.start()),
                lambda: d.signal(signal.SIGHUP),
            ]
            given = 0
            while given < many or (
                left := db.execute("SELECT count(*) FROM jobs").fetchone()[0]
            ):
                expect(time.monotonic() < began + 600, f"{left} jobs are left")
                some = numbers[given : given + max(10, many // 200)]
                with db:
                    db.executemany("INSERT INTO jobs (number) VALUES (?)", some)
                given += len(some)
                if turns and given > many * (4 - len(turns)) / 4:
                    turns.pop(0)()
                if spirits := d.spirits:
                    killed += kill(chance.choice(spirits))
                select.select([], [], [], 0.05)
            seconds = time.monotonic() - began
            expect(not turns, "the work was over before the reloads")
            d.stop()
            rows = db.execute("SELECT job, square FROM results ORDER BY job").fetchall()
    squares = [(job + 1, number * number) for job, (number,) in enumerate(numbers)]
    times = Counter(job for job, _ in rows)
    twice = [job for job, count in times.items() if count > 1]
    expect(not twice, f"done more than once: {twice[:10]}")
    expect(rows == squares, f"{len(rows)} results for {many} jobs")
    return f"{many} jobs, each done once, in {seconds:.1f} s; {killed} spirits killed"


SIGNALS = ("KILL", "STOP", "QUIT", "TERM", "TTIN", "TTOU", "HUP", "USR1")


class Storm:
    """A pool under everything that a signal can do to it."""

    def __init__(self, d: Daemon, chance: random.Random) -> None:
        """Prepare."""
        self.d = d
        self.chance = chance
        self.count: Counter[str] = Counter()
        self._stopped: dict[int, float] = {}
        self._wanted = SPIRITS
        self._read = 0

    @property
    def wanted(self) -> int:
        """The number that the manager wants now, as its log tells."""
        with open(self.d.logfile, "rb") as file:
            file.seek(self._read)
            data = file.read()
        whole = data.rfind(b"\n") + 1
        self._read += whole
        if sizes := re.findall(rb"Pool size \d+ -> (\d+)\n", data[:whole]):
            self._wanted = int(sizes[-1])
        return self._wanted

    def blow(self) -> None:
        """Do one thing."""
        spirits = self.d.spirits
        what = self.chance.choices(
            (*SIGNALS, "manager", "mold"),
            (30, 8, 10, 5, 6, 6, 2, 4, 0.5, 8),
        )[0]
        self._go_on()
        number = getattr(signal, f"SIG{what}", None)
        if what in ("KILL", "STOP", "QUIT", "TERM"):
            if not spirits:
                return
            pid = self.chance.choice(spirits)
            if kill(pid, number) and what == "STOP":
                self._stopped[pid] = time.monotonic() + self.chance.uniform(0, 3)
        elif what == "mold":
            if not (others := self.d.molds + self.d.embryos):
                return
            self._strike(self.chance.choice(others))
        elif what == "manager":
            manager = self.d.pid
            kill(manager, signal.SIGSTOP)
            select.select([], [], [], self.chance.uniform(0, 1))
            kill(manager, signal.SIGCONT)
        else:
            if what in ("TTIN", "TTOU"):
                wanted = self.wanted
                # The storm may not blow the pool away, nor up.
                what = "TTIN" if wanted < 3 else "TTOU" if wanted > 12 else what
                number = getattr(signal, f"SIG{what}")
            self.d.signal(number)
        self.count[what] += 1

    def _strike(self, pid: int) -> None:
        """Send something to a mold or an embryo; most of it means nothing to them."""
        what = self.chance.choice(("KILL", "STOP", *SIGNALS[2:]))
        if kill(pid, getattr(signal, f"SIG{what}")) and what == "STOP":
            self._stopped[pid] = time.monotonic() + self.chance.uniform(0, 3)

    def _go_on(self, *, all_: bool = False) -> None:
        for pid, when in list(self._stopped.items()):
            if all_ or time.monotonic() > when:
                del self._stopped[pid]
                # Its number may be somebody's by now: a spirit's of ours, or none.
                if pid in self.d.processes:
                    kill(pid, signal.SIGCONT)

    def abate(self) -> None:
        """End it: everybody goes on, and the wanted number is what it was."""
        self._go_on(all_=True)
        while (wanted := self.wanted) != SPIRITS:
            more = wanted < SPIRITS
            self.d.signal(signal.SIGTTIN if more else signal.SIGTTOU)
            # Until the signal is seen; what was sent before may come first.
            self.d.wait_for(lambda old=wanted: self.wanted != old, 20, "another size")


def storms(seconds: float, chance: random.Random) -> str:
    """Let it storm; afterwards the pool is as it was."""
    with suffering(service(load=True, beat=1, grace=1)) as (d, stamps):
        before = Before(d)
        storm = Storm(d, chance)
        began = time.monotonic()
        while time.monotonic() < began + seconds:
            storm.blow()
            stamps.read(chance.uniform(0, 0.03))
        storm.abate()
        complete(d, limit=90)
        # The log's own growth is none of the manager's.
        text = before.compare(2048)
        expect(not d.log_lines("failed in its loop"), "an error of the manager's")
        born, _ = ledger(d)
    done = ", ".join(f"{number} {what}" for what, number in storm.count.most_common())
    return f"{seconds:.0f} s of storm ({done}): {born} lives  {text}"


def seeded(mode: Callable[..., str], seed: int) -> random.Random:
    """Make the chance of one mode, whatever else is run."""
    return random.Random(f"{seed} {mode.__name__}")  # noqa: S311 - to be repeated


def main() -> int:
    """Read the command line, do what it says, print figures."""
    parser = argparse.ArgumentParser(description="Chaos for ghostd.")
    parser.add_argument("--minutes", type=float, default=0, help="of storm")
    parser.add_argument("--kills", type=int, default=0, help="of spirits")
    parser.add_argument("--manager-kills", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=0)
    parser.add_argument("--preload", action="store_true", help="let molds make them")
    parser.add_argument("--seed", type=int, default=None)
    given = parser.parse_args()
    if given.preload:
        os.environ[PRELOAD] = "yes"
    seed = random.SystemRandom().randrange(10**9) if given.seed is None else given.seed
    print(f"seed {seed}", flush=True)
    modes: list[tuple[Callable[..., str], float]] = [
        (kills, given.kills),
        (manager_kills, given.manager_kills),
        (jobs, given.jobs),
        (storms, given.minutes * 60),
    ]
    if not any(size for _, size in modes):
        parser.error("nothing to do: --minutes, --kills, --manager-kills or --jobs")
    for mode, size in modes:
        if size:
            print(mode(size, seeded(mode, seed)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
