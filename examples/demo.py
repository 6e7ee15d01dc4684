"""
A daemon's life in a few seconds: `make demo`.

Starts the HTTP server of 07_http.py with four spirits in a temporary folder, sends it
requests, kills one spirit with -9, replaces all of them under load, and stops. Every
promise is checked; the exit code is 0 only if all of them were kept.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from urllib.request import urlopen

SCRIPT = Path(__file__).resolve().with_name("07_http.py")
SOURCES = SCRIPT.parents[1] / "src"
SPIRITS = 4
CLIENTS = 4
PATIENCE = 5.0
COLOURED = sys.stdout.isatty() and "NO_COLOR" not in os.environ
BOLD, GREEN, RED, GREY = "1", "32", "31", "90"


class BrokenPromiseError(Exception):
    """Something that the demonstration promises did not happen."""


def paint(text: str, colour: str) -> str:
    return f"\033[{colour}m{text}\033[0m" if COLOURED else text


def say(text: str = "", took: float | None = None) -> None:
    """Print a line; *took*, in seconds, stands at its right."""
    right = "" if took is None else f"{took * 1000:>9.1f} ms"
    print(f"  {text:<62}{paint(right, GREEN)}".rstrip(), flush=True)


def title(text: str) -> None:
    print(f"\n{paint(text, BOLD)}", flush=True)


def promise(kept: object, words: str) -> None:
    if not kept:
        raise BrokenPromiseError(words)


def lives(pid: int) -> bool:
    """Tell whether a process lives; one that only waits to be buried does not."""
    try:
        return (
            Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        )
    except OSError:
        return False


class Demo:
    """The daemon under demonstration, seen from outside: commands, log, answers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manager = 0
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = str(free.getsockname()[1])

    def ctrl(self, word: str) -> tuple[str, float]:
        """Run a command; give what it prints, and the seconds it took."""
        began = time.time()
        done = subprocess.run(  # noqa: S603 - our own script
            [sys.executable, str(SCRIPT), word],
            cwd=self.folder,
            env={"PYTHONPATH": str(SOURCES), **os.environ, "PORT": self.port},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        took = time.time() - began
        print(paint(f"  $ python examples/{SCRIPT.name} {word}", GREY), flush=True)
        promise(done.returncode == 0, f"{word}: {done.stdout}{done.stderr}".strip())
        return done.stdout.strip(), took

    def end(self) -> None:
        """See to it that nothing is left, also if the promise of "stop" is broken."""
        with suppress(BrokenPromiseError, subprocess.TimeoutExpired):
            self.ctrl("stop")
        if lives(self.manager):
            os.kill(self.manager, signal.SIGKILL)  # its spirits notice, and leave

    def ask(self) -> tuple[int, int]:
        """Send a request; give the pid and the slot of the spirit that answers."""
        url = f"http://127.0.0.1:{self.port}/"
        with urlopen(url, timeout=PATIENCE) as answer:
            words = answer.read().split()
        return int(words[1]), int(words[3])

    def seen(self, what: str) -> dict[int, float]:
        """Read off the log which spirits *what* was said of, and when."""
        text = (self.folder / "daemon.log").read_text()
        found = re.findall(
            rf"^\[(.+?)\] \[\d+\] \[\w+\] Spirit (\d+) {what}", text, re.MULTILINE
        )
        return {int(pid): datetime.fromisoformat(at).timestamp() for at, pid in found}

    @property
    def spirits(self) -> list[int]:
        """Who is healthy and has not stopped."""
        stopped = self.seen("stopped")
        return [pid for pid in self.seen("is healthy") if pid not in stopped]

    def until(self, condition: Callable[[], object], words: str) -> None:
        deadline = time.time() + PATIENCE
        while not condition():
            promise(time.time() < deadline, f"not within {PATIENCE:g} s: {words}")
            time.sleep(0.001)


def start(demo: Demo) -> None:
    title(f"Start: a manager, {SPIRITS} spirits, one listening socket")
    words, took = demo.ctrl("start")
    say(words, took)
    demo.until(lambda: len(demo.spirits) == SPIRITS, "every spirit is healthy")
    say(f"spirits {' '.join(map(str, demo.spirits))}: each has had its first beat")
    demo.manager = int(words.split()[-1])


def serve(demo: Demo) -> None:
    title("Serve: all of them accept from the same socket")
    began, many = time.time(), 200
    answers = Counter(demo.ask() for _ in range(many))
    say(f"{many} requests", time.time() - began)
    for (pid, slot), times in sorted(answers.items(), key=lambda item: item[0][1]):
        say(f"slot {slot}, pid {pid}: {times:>3} answers")
    promise(answers, "somebody answers")


def kill(demo: Demo) -> None:
    victim = demo.spirits[0]
    title(f"Kill: kill -9 {victim}")
    before = set(demo.seen("started"))
    killed_at = time.time()
    os.kill(victim, signal.SIGKILL)
    demo.until(
        lambda: len(demo.seen("is healthy")) > SPIRITS, "a replacement is healthy"
    )
    (newborn,) = set(demo.seen("started")) - before
    say(f"{victim} is noticed to be dead", demo.seen("died")[victim] - killed_at)
    say(f"{newborn} is born in its place", demo.seen("started")[newborn] - killed_at)
    say(f"{newborn} has its first beat", demo.seen("is healthy")[newborn] - killed_at)
    promise(len(demo.spirits) == SPIRITS, "four spirits again")


def reload(demo: Demo) -> None:
    title(f"Reload: replace every spirit while {CLIENTS} clients keep asking")
    old = set(demo.spirits)
    good, bad, over = Counter[int](), list[str](), threading.Event()

    def client() -> None:
        while not over.is_set():
            try:
                good[demo.ask()[0]] += 1
            except OSError as error:
                bad.append(str(error))

    clients = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for thread in clients:
        thread.start()
    try:
        began = time.time()
        say(demo.ctrl("reload")[0])
        demo.until(lambda: old <= set(demo.seen("stopped")), "all old ones are gone")
        ended = max(demo.seen("stopped")[pid] for pid in old)
        demo.until(lambda: set(good) - old, "a new one has answered")
    finally:
        over.set()
        for thread in clients:
            thread.join()
    say(f"{SPIRITS} old ones out, {len(demo.spirits)} new ones in", ended - began)
    say(f"{good.total()} requests meanwhile, {len(bad)} of them failed")
    promise(not bad, f"no request fails during a reload, but: {bad[:3]}")
    promise(len(demo.spirits) == SPIRITS, "four new spirits")


def stop(demo: Demo) -> None:
    title("Stop: finish what was begun, then go")
    words, took = demo.ctrl("stop")
    say(words, took)
    everybody = [demo.manager, *demo.seen("started")]
    left = [pid for pid in everybody if lives(pid)]
    promise(not left, f"nobody is left, but: {left}")
    files = sorted(path.name for path in demo.folder.iterdir())
    promise(files == ["daemon.log"], f"only the log is left, but: {files}")
    say(f"{len(everybody)} processes were born, none is left; no pidfile either")


def main() -> int:
    began = time.time()
    with tempfile.TemporaryDirectory(prefix="ghostd-demo-") as name:
        demo = Demo(Path(name))
        try:
            start(demo)
            serve(demo)
            kill(demo)
            reload(demo)
            stop(demo)
        except (BrokenPromiseError, OSError, subprocess.TimeoutExpired) as error:
            print(f"\n{paint('A promise was broken: ', RED)}{error}", file=sys.stderr)
            with suppress(OSError):
                lines = (demo.folder / "daemon.log").read_text().splitlines()
                lines = [line for line in lines if '"GET ' not in line]
                print("The log:", *lines[-30:], sep="\n  ", file=sys.stderr)
            return 1
        finally:
            if lives(demo.manager):
                demo.end()
    print(f"\nEverything promised happened, in {time.time() - began:.1f} seconds.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
