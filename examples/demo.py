"""
A service's life in a few seconds: `make demo`.

Serves an application with four spirits by `ghostd serve`, sends it requests, kills one
spirit with -9, deploys a new version under load, tries to deploy a broken one, and
stops. Every promise is checked; the exit code is 0 only if all of them were kept.
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from urllib.request import urlopen

SOURCES = Path(__file__).resolve().parents[1] / "src"
SPIRITS = 4
CLIENTS = 4
REST = 0.01
"""Seconds between two requests of a client: they shall not be most of the work."""

PATIENCE = 10.0
COLOURED = sys.stdout.isatty() and "NO_COLOR" not in os.environ
BOLD, GREEN, RED, GREY = "1", "32", "31", "90"

SHOP = """
import os
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

async def hello(request):
    return PlainTextResponse(f"one {os.getpid()}")

app = Starlette(routes=[Route("/", hello)])
"""
GOOD, BROKEN = SHOP.replace("one", "two"), SHOP + "app = no_such_name\n"


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
    """The service under demonstration, seen from outside: commands, log, answers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manager = 0
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = str(free.getsockname()[1])

    def deploy(self, text: str) -> None:
        """Put another version of the application into its place."""
        (self.folder / "shop.new").write_text(text)
        (self.folder / "shop.new").rename(self.folder / "shop.py")

    def ghostd(self, *words: str, code: int = 0) -> tuple[str, float]:
        """Run a command; give what it says, and the seconds it took."""
        print(paint(f"  $ ghostd {' '.join(words)}", GREY), flush=True)
        began = time.time()
        done = subprocess.run(  # noqa: S603 - our own command
            [sys.executable, "-m", "ghostd", *words],
            cwd=self.folder,
            env={"PYTHONPATH": str(SOURCES), **os.environ},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        took = time.time() - began
        said = f"{done.stdout}{done.stderr}".strip()
        promise(done.returncode == code, f"{words[0]}: {done.returncode}: {said}")
        return said, took

    def end(self) -> None:
        """See to it that nothing is left, also if the promise of "stop" is broken."""
        with suppress(BrokenPromiseError, subprocess.TimeoutExpired):
            self.ghostd("stop", "shop")
        if lives(self.manager):
            os.kill(self.manager, signal.SIGKILL)  # its spirits notice, and leave

    def ask(self) -> tuple[str, int]:
        """Send a request; give the version and the pid of the spirit that answers."""
        with urlopen(f"http://127.0.0.1:{self.port}/", timeout=PATIENCE) as answer:
            version, pid = answer.read().decode().split()
        return version, int(pid)

    def seen(self, what: str) -> dict[int, float]:
        """Read off the log which spirits *what* was said of, and when."""
        text = (self.folder / "shop.log").read_text()
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


@contextmanager
def clients(demo: Demo) -> Iterator[Counter[str]]:
    """Keep asking; give how often each version has answered. No request may fail."""
    good, bad, over = Counter[str](), list[str](), threading.Event()

    def client() -> None:
        while not over.is_set():
            try:
                good[demo.ask()[0]] += 1
            except (OSError, ValueError) as error:
                bad.append(str(error))
            over.wait(REST)

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield good
    finally:
        over.set()
        for thread in threads:
            thread.join()
    say(f"{good.total()} requests meanwhile, {len(bad)} of them failed")
    promise(not bad, f"no request fails, but: {bad[:3]}")


def start(demo: Demo) -> None:
    title(f"Start: a manager, {SPIRITS} spirits, one listening socket")
    demo.deploy(SHOP)
    listen = f"127.0.0.1:{demo.port}"
    words, took = demo.ghostd(
        *("serve", "shop:app", "--spirits", str(SPIRITS), "--listen", listen),
        *("--logfile", "shop.log", "--daemon"),
    )
    say(words, took)
    demo.until(lambda: len(demo.spirits) == SPIRITS, "every spirit is healthy")
    say(f"spirits {' '.join(map(str, demo.spirits))}: each is ready to serve")
    demo.manager = int(words.split()[-1])


def serve(demo: Demo) -> None:
    title("Serve: all of them accept from the same socket")
    began, many = time.time(), 200
    answers = Counter(demo.ask()[1] for _ in range(many))
    say(f"{many} requests", time.time() - began)
    for pid, times in sorted(answers.items()):
        say(f"pid {pid}: {times:>3} answers")
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
    title(f"Deploy: new code, while {CLIENTS} clients keep asking")
    old = set(demo.spirits)
    demo.deploy(GOOD)
    with clients(demo) as answers:
        words, took = demo.ghostd("reload", "shop")
        say(words, took)
        demo.until(lambda: old <= set(demo.seen("stopped")), "all old ones are gone")
        before = answers["one"]
        demo.until(lambda: answers["two"] > CLIENTS, "the new version answers")
        promise(answers["one"] == before, "the old version answers no more")
    say(f"{SPIRITS} old ones out, {len(demo.spirits)} new ones in")
    promise(len(demo.spirits) == SPIRITS, "four new spirits")


def broken(demo: Demo) -> None:
    title("Deploy: broken code, under the same load")
    old = set(demo.spirits)
    demo.deploy(BROKEN)
    with clients(demo) as answers:
        words, took = demo.ghostd("reload", "shop", code=1)
        reason = re.search(r"NameError: [^(\n]+", words)
        promise(reason, f"the reason is said, but: {words}")
        say(f"refused: {reason[0] if reason else ''}"[:61], took)
        before = answers["two"]
        demo.until(lambda: answers["two"] > before, "the old version answers")
        promise(set(answers) == {"two"}, "only the good version answers")
    promise(set(demo.spirits) == old, "the good ones were not touched")
    say(f"the {SPIRITS} good ones were not touched")


def stop(demo: Demo) -> None:
    title("Stop: finish what was begun, then go")
    words, took = demo.ghostd("stop", "shop")
    say(words, took)
    everybody = [demo.manager, *demo.seen("started")]
    left = [pid for pid in everybody if lives(pid)]
    promise(not left, f"nobody is left, but: {left}")
    files = sorted(path.name for path in demo.folder.iterdir())
    files = [name for name in files if name not in {"shop.py", "__pycache__"}]
    promise(files == ["shop.log"], f"only the log is left, but: {files}")
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
            broken(demo)
            stop(demo)
        except (BrokenPromiseError, OSError, subprocess.TimeoutExpired) as error:
            print(f"\n{paint('A promise was broken: ', RED)}{error}", file=sys.stderr)
            with suppress(OSError):
                lines = (demo.folder / "shop.log").read_text().splitlines()
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
