"""Every example is started, does what its text says, and is stopped, for real."""

from __future__ import annotations

import ast
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from functools import partial
from pathlib import Path
from urllib.request import urlopen

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from ghostd.testing import Daemon, DaemonError

EXAMPLES = Path(__file__).parents[1] / "examples"
NUMBERED = sorted(EXAMPLES.glob("[0-9]*.py"))
MOST_LINES = 40


def example(name: str, **variables: str) -> Daemon:
    return Daemon(EXAMPLES / name, env=variables)


def four_spirits(d: Daemon) -> set[int]:
    d.wait_for(lambda: d.healthy == 4)
    return set(d.spirits)


def free_port() -> str:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return str(sock.getsockname()[1])


def ids(pid: int, kind: str) -> set[str]:
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith(f"{kind}:"))
    return set(line.split()[1:])


@pytest.mark.parametrize("path", NUMBERED, ids=lambda path: path.name)
def test_an_example_is_short_enough_to_be_read_at_once(path: Path) -> None:
    module = ast.parse(path.read_text())
    text = module.body[0]
    lines = path.read_text().splitlines()[text.end_lineno :]

    assert ast.get_docstring(module)
    assert sum(bool(line.strip()) for line in lines) < MOST_LINES


def test_the_examples_are_numbered_without_a_gap() -> None:
    numbers = [int(path.name[:2]) for path in NUMBERED]

    assert numbers == list(range(1, len(numbers) + 1))


def test_01_the_synopsis_counts_and_who_dies_is_replaced() -> None:
    with example("01_simple.py") as d:
        assert d.ctrl().stderr.startswith("Command incorrect")
        assert d.start().stdout == f"Running {d.pid}\n"
        d.wait_for(lambda: d.healthy == 4)
        d.wait_for_line("1/10")
        dead = d.kill_spirit()
        d.wait_for(lambda: d.healthy == 4 and dead not in d.spirits)

        assert d.stop().stdout.startswith("Stopped ")


def test_02_a_reload_logs_the_pool_and_replaces_nobody() -> None:
    with example("02_reload.py") as d:
        d.ctrl()  # without a word it starts, as in the ancestor's example
        d.wait_for(lambda: d.healthy == 4)
        before = d.spirits
        assert d.ctrl("reload").stdout == f"Reloading {d.pid}\n"
        d.wait_for_line("slot generation phase")
        d.wait_for(
            lambda: len(re.findall(r"^ .*alive ", d.log_text(), re.MULTILINE)) == 4
        )

        assert d.spirits == before


def test_03_timers_of_an_event_loop_run_and_a_quit_ends_it() -> None:
    with example("03_event_loop.py") as d:
        d.start()
        d.wait_for_line("Timer!", times=4)
        d.wait_for_line("5/10", times=4)
        d.stop()

        assert len(d.log_lines("Finish the loop")) == 4


def test_04_commands_by_hand() -> None:
    with example("04_ghost_by_hand.py") as d:
        assert d.ctrl("nonsense").stderr == "Command incorrect\n"
        status = d.ctrl("status")
        assert (status.stdout, status.returncode) == ("Not running\n", 3)
        assert d.ctrl("stop").stdout == "Not running\n"
        assert d.ctrl("start").returncode == 0
        pid = d.wait_for(lambda: d.pid)
        assert d.ctrl("status").stdout == f"Running {pid}\n"
        again = d.ctrl("start")
        assert (again.returncode, again.stderr) == (1, f"Already running {pid}\n")

        assert d.ctrl("stop").stdout == f"Stopped {pid}\n"
        d.wait_for(lambda: not d.pidfile.exists())


def test_05_every_hook_of_a_plain_ghost() -> None:
    with example("05_ghost.py") as d:
        assert d.start().stdout == f"Starting 05_ghost\nRunning {d.pid}\n"
        d.ctrl("reload")
        d.wait_for_line("Counted to 1")
        d.stop()

        assert d.log_lines("It was interrupted")


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_06_nobody_has_no_rights_left() -> None:
    with Daemon(EXAMPLES / "06_nobody.py", env={"PIDFILE": "nobody.pid"}) as d:
        d.start()
        spirits = d.wait_for(lambda: d.spirits)

        for pid in (d.pid, *spirits):
            assert ids(pid, "Uid") == ids(pid, "Gid") == ids(pid, "Groups") == {"65534"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may")
def test_06_who_is_not_root_cannot_become_nobody() -> None:
    with Daemon(EXAMPLES / "06_nobody.py", env={"PIDFILE": "nobody.pid"}) as d:
        refused = d.ctrl("start")

        assert refused.returncode == 1
        assert "only root can become somebody else" in refused.stderr


def ask(port: str) -> tuple[int, int]:
    with urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answer:
        words = answer.read().split()
    return int(words[1]), int(words[3])


def test_07_all_spirits_answer_from_one_socket() -> None:
    port = free_port()
    with example("07_http.py", PORT=port) as d:
        d.start()
        seen = set[int]()
        while len(seen) < 4:  # the limit is that of the test runner
            seen.add(ask(port)[1])

        assert seen == {0, 1, 2, 3}


def test_07_a_quit_loses_no_accepted_request() -> None:
    port = free_port()
    with example("07_http.py", PORT=port) as d:
        d.start()
        # The request has been accepted, but only half of it has come, when the spirit
        # is asked to leave.
        with socket.create_connection(("127.0.0.1", int(port))) as client:
            client.sendall(b"GET / HTTP/1.0\r\n")
            old = four_spirits(d)
            d.ctrl("reload")
            d.wait_for(lambda: len(old & set(d.spirits)) == 1)
            client.sendall(b"\r\n")
            answer = client.makefile("rb").read()
        d.wait_for(lambda: not old & set(d.spirits))

        assert int(answer.split(b"pid ")[1].split()[0]) in old


def test_07_no_request_fails_while_spirits_are_replaced() -> None:
    port = free_port()
    with example("07_http.py", PORT=port) as d:
        d.start()
        old = four_spirits(d)
        d.ctrl("reload")
        while old & set(d.spirits):
            ask(port)

        assert ask(port)[0] not in old


def ask_jobs(file: Path, question: str) -> list[int]:
    with closing(sqlite3.connect(file, timeout=10)) as db:
        return [number for (number,) in db.execute(question)]


def fewer_than(file: Path, many: int) -> bool:
    return ask_jobs(file, "SELECT count(*) FROM jobs")[0] < max(1, many)


def add_jobs(file: Path, many: int) -> None:
    with closing(sqlite3.connect(file, timeout=10)) as db, db:
        db.executemany(
            "INSERT INTO jobs (number) VALUES (?)", [(n,) for n in range(many)]
        )


def test_08_each_job_is_done_once_whoever_is_killed() -> None:
    many, kills = 3000, 40
    with example("08_jobs.py", JOBS="jobs.db") as d:
        file = d.folder / "jobs.db"
        d.start()
        add_jobs(file, many)
        killed = 0
        while ask_jobs(file, "SELECT count(*) FROM jobs") != [0]:
            # Those who hold a job: the worst moment, and they have had a beat, so that
            # the brake on early deaths does not make this test wait.
            for pid in ask_jobs(file, "SELECT pid FROM jobs WHERE pid IS NOT NULL"):
                if killed < kills:
                    with suppress(DaemonError):  # gone since, or an orphan by now
                        d.kill_spirit(pid)
                        killed += 1
            if killed == kills // 2:
                d.signal(signal.SIGKILL)
                killed += 1
                d.wait_for(lambda: not d.pid)
                d.start()
            # By what is left of them, so that the kills are spread over the work.
            left = ask_jobs(file, "SELECT count(*) FROM jobs")[0]
            d.wait_for(partial(fewer_than, file, left))

        results = ask_jobs(file, "SELECT job FROM results")
        wrong = "SELECT job FROM results WHERE square != (job - 1) * (job - 1)"
        assert killed > kills // 2, "the work was done before the manager was killed"
        assert Counter(results) == Counter(range(1, many + 1))
        assert not ask_jobs(file, wrong)


@pytest.mark.parametrize(
    ("name", "variable", "where"),
    [
        ("09_redis_streams.py", "REDIS", "unix:///nowhere/redis"),
        ("10_postgres_jobs.py", "POSTGRES", "host=/nowhere dbname=jobs"),
    ],
)
def test_a_start_without_the_server_says_so(
    name: str, variable: str, where: str
) -> None:
    """With the server: tests/servers/test_queues.py."""
    with example(name, **{variable: where}) as d:
        refused = d.ctrl("start")

        assert refused.returncode == 1
        assert "/nowhere/" in refused.stderr


def shout(port: str, word: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", int(port)), timeout=10) as client:
        client.sendall(word + b"\n")
        return client.makefile("rb").readline()


each_line_server = pytest.mark.parametrize(
    "name", ["11_asyncio_server.py", "12_trio_server.py"]
)


@each_line_server
def test_a_line_is_answered_whoever_is_replaced(name: str) -> None:
    port = free_port()
    with example(name, LISTEN=f"127.0.0.1:{port}") as d:
        d.start()
        old = four_spirits(d)
        d.signal(signal.SIGHUP)  # the command would wait until nobody is left
        asked = 0
        while old & set(d.spirits):
            asked += 1
            assert shout(port, b"hello %d" % asked) == b"HELLO %d\n" % asked
        d.wait_for(lambda: d.healthy == 4)

        assert asked
        assert not d.log_lines("[error]")


def held(d: Daemon) -> int:
    """Count the sockets of all spirits."""
    names = [name for pid in d.spirits for name in d.descriptors(pid).values()]
    return sum(name.startswith("socket:") for name in names)


@each_line_server
def test_a_line_that_was_on_its_way_is_answered_by_one_who_leaves(name: str) -> None:
    port = free_port()
    with example(name, LISTEN=f"127.0.0.1:{port}") as d:
        d.start()
        four_spirits(d)
        before = held(d)
        with socket.create_connection(("127.0.0.1", int(port)), timeout=10) as client:
            client.sendall(b"he")
            d.wait_for(lambda: held(d) > before, what="an accepted client")
            d.signal(signal.SIGQUIT)
            d.wait_for_line("Stopping spirit", times=4)
            client.sendall(b"llo\n")
            answer = client.makefile("rb").read()
        d.wait_for(lambda: not d.pid)

        assert answer == b"HELLO\n"


def test_11_clients_that_say_nothing_hold_nobody_up() -> None:
    port = free_port()
    with example("11_asyncio_server.py", LISTEN=f"127.0.0.1:{port}") as d:
        d.start()
        with socket.create_connection(("127.0.0.1", int(port)), timeout=10) as client:
            lines = client.makefile("rb")
            client.sendall(b"one\ntwo\n")
            assert [lines.readline(), lines.readline()] == [b"ONE\n", b"TWO\n"]
            d.stop()

            assert lines.read() == b""


def test_13_the_same_as_an_asynchronous_body() -> None:
    with example("13_async.py") as d:
        d.start()
        d.wait_for_line("Timer!", times=4)
        d.wait_for_line("6/10, late by 0.", times=4)
        d.stop()

        assert len(d.log_lines("Finish the loop")) == 4


@each_line_server
def test_who_waits_at_the_door_when_all_leave_is_answered(name: str) -> None:
    port = free_port()
    with ExitStack() as stack, example(name, LISTEN=f"127.0.0.1:{port}") as d:
        d.start()
        four_spirits(d)
        for pid in d.spirits:
            d.signal(signal.SIGSTOP, pid)
        clients = [
            stack.enter_context(
                socket.create_connection(("127.0.0.1", int(port)), timeout=10)
            )
            for _ in range(20)
        ]
        for client in clients:
            client.sendall(b"hello\n")
        d.signal(signal.SIGQUIT)
        d.wait_for_line("Stopping spirit", times=4)
        for pid in d.spirits:
            d.signal(signal.SIGCONT, pid)
        answers = [client.makefile("rb").readline() for client in clients]
        d.wait_for(lambda: not d.pid)

        assert answers == [b"HELLO\n"] * 20


def test_14_each_datagram_has_an_answer_whoever_is_replaced() -> None:
    port = free_port()
    with (
        example("14_udp_server.py", LISTEN=f"udp:127.0.0.1:{port}") as d,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        client.settimeout(10)
        client.connect(("127.0.0.1", int(port)))
        d.start()
        old = four_spirits(d)
        d.ctrl("reload")
        number = 0
        while old & set(d.spirits) or not number:
            number += 1
            client.send(b"hello %d" % number)
            assert client.recv(100) == b"HELLO %d" % number
        d.stop()

        assert not d.log_lines("[error]")


def test_15_starlette_streams_to_the_end_and_its_websocket_is_told() -> None:
    port = free_port()
    with example("15_starlette.py", PORT=port) as d:
        d.start()
        four_spirits(d)
        with urlopen(f"http://127.0.0.1:{port}/") as answer:
            assert re.fullmatch(rb"pid \d+ slot [0-3]\n", answer.read())
        with (
            connect(f"ws://127.0.0.1:{port}/echo") as websocket,
            urlopen(f"http://127.0.0.1:{port}/count") as stream,
        ):
            websocket.send("hello")
            assert websocket.recv() == "hello"
            assert stream.readline() == b"0\n"
            d.signal(signal.SIGQUIT)
            with pytest.raises(ConnectionClosed, match="1012"):
                websocket.recv(timeout=10)
            assert stream.read().split() == [b"%d" % n for n in range(1, 10)]


def test_16_flask_answers_while_a_slow_request_holds_a_thread() -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}/"
    with example("16_flask.py", PORT=port) as d, ThreadPoolExecutor() as callers:
        d.start()
        four_spirits(d)
        slow = [callers.submit(urlopen, url + "slow") for _ in range(4)]
        for _ in range(20):
            with urlopen(url) as answer:
                assert answer.status == 200
        for each in slow:
            with each.result() as answer:
                assert answer.read() == b"that took a second\n"


def test_the_demo_keeps_its_promises_and_leaves_nothing() -> None:
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "demo.py")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "Everything promised happened" in done.stdout
    assert "\033" not in done.stdout
    assert time.monotonic() - began < 45  # 8 where nothing else runs
