"""Each hostile server is one way to fail a request; each is counted as itself."""

from __future__ import annotations

import contextlib
import math
import os
import re
import socket
import struct
import tempfile
import threading
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.helpers import living_child, wait_for

from ghostd.testing import caller
from ghostd.testing.load import (
    Death,
    Load,
    LoadError,
    Outcome,
    Report,
    _ports_by_table,
    ports_of,
    strike,
)

END = "0\r\n\r\n"
Handler = Callable[[socket.socket, int], object]
"""Deals with a connection; also given how many there were before."""


class Server:
    """A server of bad manners, in a process of its own."""

    def __init__(self, address: str, pid: int, listener: socket.socket) -> None:
        self.address = address
        self.pid = pid
        self.listener = listener


@contextlib.contextmanager
def serving(
    handler: Handler, *, unix: bool = False, backlog: int = 128
) -> Iterator[Server]:
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(
            socket.socket(socket.AF_UNIX if unix else socket.AF_INET)
        )
        if unix:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            listener.bind(f"{folder}/socket")
            address = f"unix:{folder}/socket"
        else:
            listener.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{listener.getsockname()[1]}"
        listener.listen(backlog)
        pid = stack.enter_context(living_child(lambda: _accept_all(listener, handler)))
        yield Server(address, pid, listener)


def _accept_all(listener: socket.socket, handler: Handler) -> None:
    def accept() -> None:
        number = 0
        while True:
            sock, _ = listener.accept()
            threading.Thread(target=deal, args=(sock, number)).start()
            number += 1

    def deal(sock: socket.socket, number: int) -> None:
        with sock, contextlib.suppress(OSError):
            handler(sock, number)

    threading.Thread(target=accept).start()


def request(sock: socket.socket) -> int:
    """Read a request; give its number, or -1 at the end of the connection."""
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        chunk = sock.recv(1)
        if not chunk:
            return -1
        data += chunk
    found = re.search(rb"X-Id: (\d+)\r\n", data)
    assert found
    return int(found[1])


def answer(
    number: int, *headers: str, status: str = "200 OK", body: str = "hello"
) -> bytes:
    lines = (
        f"HTTP/1.1 {status}",
        f"X-Id: {number}",
        f"X-Pid: {os.getpid()}",
        *(headers or (f"Content-Length: {len(body)}",)),
    )
    return "\r\n".join((*lines, "", body)).encode()


def polite(sock: socket.socket, _: int) -> None:
    while (number := request(sock)) >= 0:
        sock.sendall(answer(number))


def reset(sock: socket.socket) -> None:
    """Close so that the other end is told off."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def fire(
    handler: Handler,
    requests: int = 8,
    *,
    connections: int = 2,
    timeout: float = 10.0,
) -> Report:
    """Send some requests; whatever comes of them, all have an outcome."""
    with (
        serving(handler) as server,
        Load(
            server.address,
            connections=connections,
            requests=requests,
            timeout=timeout,
        ) as load,
    ):
        report = load.wait()
        assert (load.begun, load.answered + load.failed) == (requests, requests)
    assert report.sent == report.good + len(report.failed) == requests
    assert sum(report.outcomes.values()) == requests
    return report


# -- good answers --------------------------------------------------------------


@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
@pytest.mark.parametrize("keepalive", [True, False], ids=["again", "new"])
def test_good_answers_are_counted_with_who_gave_them(
    *, keepalive: bool, unix: bool
) -> None:
    with (
        serving(polite, unix=unix) as server,
        Load(server.address, connections=3, requests=30, keepalive=keepalive) as load,
    ):
        report = load.wait()

    assert (report.sent, report.good, report.failed) == (30, 30, [])
    assert report.balance == {server.pid: 30}
    assert report.opened == (3 if keepalive else 30)
    assert len({each.port for each in report}) == report.opened


@pytest.mark.parametrize(
    ("header", "body"),
    [
        (
            "Transfer-Encoding: chunked",
            "5\r\nhello\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n",
        ),
        ("Transfer-Encoding: chunked", "0\r\nTrailer: yes\r\n\r\n"),
        ("content-length:5", "hello"),
    ],
    ids=["chunks", "trailer", "length"],
)
def test_bodies_of_all_kinds_are_read_to_their_end(header: str, body: str) -> None:
    def handler(sock: socket.socket, _: int) -> None:
        while (number := request(sock)) >= 0:
            text = answer(number, header, body=body)
            for at in range(len(text)):
                sock.sendall(text[at : at + 1])

    report = fire(handler)

    assert report.good == 8
    assert report.opened == 2


def test_a_body_may_end_with_its_connection() -> None:
    def handler(sock: socket.socket, _: int) -> None:
        number = request(sock)
        sock.sendall(answer(number, "Server: old"))

    report = fire(handler)

    assert report.good == report.opened == 8
    assert report.closed_idle == 0


def test_heads_that_are_no_answer_yet_are_passed_over() -> None:
    def handler(sock: socket.socket, _: int) -> None:
        while (number := request(sock)) >= 0:
            sock.sendall(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
            sock.sendall(answer(number, status="204 No Content", body=""))

    assert fire(handler).statuses == {204: 8}


def test_answers_are_counted_by_status() -> None:
    def handler(sock: socket.socket, _: int) -> None:
        while (number := request(sock)) >= 0:
            status = ("200 OK", "302 Found", "404 Not Found", "503 Busy")[number % 4]
            sock.sendall(answer(number, status=status))

    report = fire(handler)

    assert report.answered == 8
    assert report.statuses == {200: 2, 302: 2, 404: 2, 503: 2}
    assert [each.status for each in report.failed] == [404, 503, 404, 503]
    assert "2 of status 503" in str(report)


def test_the_slow_share_is_spread_evenly() -> None:
    def handler(sock: socket.socket, _: int) -> None:
        data = sock.recv(1000)
        slow = data.startswith(b"GET /slow ")
        found = re.search(rb"X-Id: (\d+)", data)
        assert found
        sock.sendall(answer(int(found[1]), status="201 Yes" if slow else "200 No"))

    report = fire_with_slow(handler)

    assert [each.number for each in report if each.slow] == [3, 7, 11, 15]
    assert all((each.status == 201) == each.slow for each in report)


def fire_with_slow(handler: Handler) -> Report:
    with (
        serving(handler) as server,
        Load(server.address, requests=16, slow=0.25, keepalive=False) as load,
    ):
        return load.wait()


# -- failures ------------------------------------------------------------------


def test_nobody_there_is_refused() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with Load(f"127.0.0.1:{port}", requests=5, connections=2) as load:
            report = load.wait()

    assert (report.refused, len(report.failed)) == (5, 5)
    assert all(each.outcome is Outcome.REFUSED for each in report)


def test_a_unix_socket_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with Load(f"unix:{tmp_path}/socket", requests=5) as load:
        assert load.wait().refused == 5


def test_a_full_queue_of_a_unix_socket_is_waited_for() -> None:
    def handler(sock: socket.socket, _: int) -> None:
        number = request(sock)
        time.sleep(0.002)
        sock.sendall(answer(number))

    with (
        serving(handler, unix=True, backlog=0) as server,
        Load(server.address, requests=50, connections=20, keepalive=False) as load,
    ):
        report = load.wait()

    assert report.good == 50


@pytest.mark.parametrize("told_off", [True, False], ids=["reset", "end"])
def test_an_end_before_the_answer_is_a_reset(*, told_off: bool) -> None:
    def handler(sock: socket.socket, _: int) -> None:
        request(sock)
        if told_off:
            reset(sock)

    report = fire(handler)

    assert report.reset == 8
    assert all(each.received == 0 for each in report)


def test_an_end_before_the_request_was_read_is_a_reset() -> None:
    assert fire(lambda sock, _: reset(sock)).reset == 8


@pytest.mark.parametrize(
    ("header", "body", "cut"),
    [
        ("Content-Length: 6", "hello", None),
        ("Transfer-Encoding: chunked", "5\r\nhello\r\n", None),
        ("Content-Length: 5", "hello", -9),
    ],
    ids=["length", "chunks", "head"],
)
def test_half_an_answer_is_a_reset(header: str, body: str, cut: int | None) -> None:
    def handler(sock: socket.socket, _: int) -> None:
        number = request(sock)
        sock.sendall(answer(number, header, body=body)[:cut])

    report = fire(handler)

    assert report.reset == 8
    assert all(each.received > 30 for each in report)


def test_a_body_that_ends_with_a_reset_is_a_reset() -> None:
    def handler(sock: socket.socket, _: int) -> None:
        number = request(sock)
        sock.sendall(answer(number, "Server: old"))
        # Not before it was read, or the kernel throws it away.
        time.sleep(0.02)
        reset(sock)

    assert fire(handler).reset == 8


def test_silence_is_a_time_out() -> None:
    def handler(sock: socket.socket, _: int) -> None:
        request(sock)
        request(sock)

    report = fire(handler, 4, connections=4, timeout=0.1)

    assert report.timed_out == 4
    assert all(0.1 <= each.latency < 1 for each in report)


def test_a_connection_that_nobody_takes_is_a_time_out() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        with Load(address, requests=2, timeout=0.1) as load:
            assert load.wait().timed_out == 2


@pytest.mark.parametrize(
    "text",
    [
        b"220 mail.example ready\r\n\r\n",
        b"HTTP/1.1 abc\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nmore",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nyes\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nmore\r\n",
        b"HTTP/1.1 200 OK\r\nX-Id: 99\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    ],
)
def test_nonsense_is_garbled(text: bytes) -> None:
    def handler(sock: socket.socket, _: int) -> None:
        request(sock)
        sock.sendall(text)
        request(sock)

    report = fire(handler)

    assert report.garbled == 8


def test_nothing_is_sent_twice() -> None:
    with tempfile.TemporaryFile() as file:

        def handler(sock: socket.socket, connection: int) -> None:
            while (number := request(sock)) >= 0:
                os.write(file.fileno(), b"%d\n" % number)
                if connection % 2:
                    return
                sock.sendall(answer(number))

        report = fire(handler, 100, connections=8)
        file.seek(0)
        seen = Counter(int(line) for line in file)

    assert report.reset > 0
    assert seen == Counter(range(100))


# -- connections that end ------------------------------------------------------


@pytest.mark.parametrize("told_off", [True, False], ids=["reset", "end"])
def test_an_end_while_idle_is_no_failure(*, told_off: bool) -> None:
    def handler(sock: socket.socket, _: int) -> None:
        sock.sendall(answer(request(sock)))
        if told_off:
            reset(sock)

    with (
        serving(handler) as server,
        Load(server.address, requests=5, rate=20, connections=1) as load,
    ):
        report = load.wait()

    assert report.good == report.opened == 5
    assert report.closed_idle >= 4


def test_unasked_words_while_idle_are_no_failure() -> None:
    def handler(sock: socket.socket, _: int) -> None:
        sock.sendall(answer(request(sock)))
        # In one piece with the answer they would be more than the answer.
        time.sleep(0.1)
        sock.sendall(answer(-1, status="408 Request Timeout"))
        request(sock)

    with (
        serving(handler) as server,
        Load(server.address, requests=2, rate=4, connections=1) as load,
    ):
        report = load.wait()

    assert report.good == report.opened == 2


def test_an_end_after_the_next_request_is_a_failure() -> None:
    """However rightful: the server cannot know, and the client has lost a request."""

    def handler(sock: socket.socket, _: int) -> None:
        sock.sendall(answer(request(sock)))
        request(sock)

    report = fire(handler, 10, connections=1)

    assert (report.good, report.reset) == (5, 5)
    assert [each.turn for each in report] == [0, 1] * 5
    assert {each.pid for each in report} != {0}


def test_a_server_that_says_close_gets_nothing_more() -> None:
    def handler(sock: socket.socket, _: int) -> None:
        number = request(sock)
        sock.sendall(answer(number, "Connection: Close", "Content-Length: 5"))
        if request(sock) >= 0:
            reset(sock)

    report = fire(handler)

    assert report.good == report.opened == 8
    assert report.closed_idle == 0


def test_an_old_server_that_does_not_say_keep_alive_gets_nothing_more() -> None:
    def handler(sock: socket.socket, _: int) -> None:
        text = answer(request(sock))
        sock.sendall(text.replace(b"HTTP/1.1", b"HTTP/1.0"))
        if request(sock) >= 0:
            reset(sock)

    report = fire(handler)

    assert report.good == report.opened == 8


# -- times ---------------------------------------------------------------------


def test_a_rate_is_kept() -> None:
    with (
        serving(polite) as server,
        Load(server.address, rate=200, seconds=0.5) as load,
    ):
        report = load.wait()

    assert 99 <= report.sent <= 101
    gaps = [b.due - a.due for a, b in zip(report, list(report)[1:], strict=False)]
    assert max(gaps) - min(gaps) < 1e-6
    assert report.unsent == 0
    assert sum(report.throughput(0.1)) > 80


def test_who_would_have_called_while_the_server_stood_still_waits_too() -> None:
    lock = threading.Lock()

    def handler(sock: socket.socket, _: int) -> None:
        while (number := request(sock)) >= 0:
            with lock:
                if number == 20:
                    time.sleep(0.3)
            sock.sendall(answer(number))

    with (
        serving(handler) as server,
        Load(server.address, rate=200, requests=100, connections=2) as load,
    ):
        report = load.wait()

    # With two connections only two requests met the pause, but 60 were due in it.
    assert 35 <= report.late(0.1) <= 75
    assert report.late(0.2) < report.late(0.1)
    assert report.percentile(50) < report.percentile(99)
    assert report.percentile(100) >= 0.3


def test_what_no_connection_was_left_for_is_told() -> None:
    def handler(sock: socket.socket, _: int) -> None:
        while (number := request(sock)) >= 0:
            time.sleep(0.05)
            sock.sendall(answer(number))

    with (
        serving(handler) as server,
        Load(server.address, rate=1000, seconds=0.2, connections=1) as load,
    ):
        report = load.wait()

    assert report.good == report.sent <= 5
    assert 50 <= report.unsent + report.sent <= 1000 * report.seconds + 1
    assert "never sent" in str(report)


def test_a_stop_waits_for_what_is_on_its_way() -> None:
    def handler(sock: socket.socket, _: int) -> None:
        while (number := request(sock)) >= 0:
            time.sleep(0.1)
            sock.sendall(answer(number))

    with serving(handler) as server, Load(server.address, connections=4) as load:
        wait_for(lambda: load.begun == 4)
        report = load.stop()

    assert (report.good, report.failed) == (4, [])
    assert report.seconds < 0.1


# -- while it runs -------------------------------------------------------------


def test_more_waits_for_answers() -> None:
    with serving(polite) as server, Load(server.address) as load:
        load.more(50)
        before = load.answered
        load.more(50)
        assert load.answered >= before + 50 >= 100


def test_more_fails_when_no_more_come() -> None:
    with (
        serving(polite) as server,
        Load(server.address, requests=5) as load,
        pytest.raises(LoadError, match="ended after 5"),
    ):
        load.more(10)


def test_more_fails_in_time(tmp_path: Path) -> None:
    with (
        Load(f"unix:{tmp_path}/nothing") as load,
        pytest.raises(LoadError, match="1 of 1 good answers did not come"),
    ):
        load.more(1, limit=0.05)


def test_a_failure_in_the_block_tells_the_report() -> None:
    def block(address: str) -> None:
        with Load(address, requests=5) as load:
            load.wait()
            raise ZeroDivisionError

    with serving(polite) as server, pytest.raises(ZeroDivisionError) as caught:
        block(server.address)

    assert "5 sent, 5 good" in caught.value.__notes__[0]


def test_a_load_that_breaks_down_says_why(tmp_path: Path) -> None:
    with (
        Load(f"unix:{tmp_path}/{200 * 'x'}", requests=1) as load,
        pytest.raises(LoadError, match="too long"),
    ):
        load.wait()


def test_a_load_that_cannot_begin_says_why() -> None:
    load = Load("127.0.0.1:1", connections=1)
    load._plan.pop("timeout")  # noqa: SLF001 - no way that a user has

    with pytest.raises(LoadError, match="KeyError: 'timeout'"):
        load.__enter__()


def test_a_load_that_is_left_ends() -> None:
    with serving(polite) as server, Load(server.address) as load:
        load.more(10)
        process = load._process  # noqa: SLF001 - to see its end
        assert process is not None

    assert process.returncode is not None


# -- whose fault ---------------------------------------------------------------


def ports_behind(pid: int) -> frozenset[int]:
    door = os.pidfd_open(pid)
    try:
        return ports_of(pid, door)
    finally:
        os.close(door)


@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
def test_what_dies_in_a_killed_process_is_excused(*, unix: bool) -> None:
    def handler(sock: socket.socket, connection: int) -> None:
        while (number := request(sock)) >= 0:
            if connection > 1:
                time.sleep(60)
            sock.sendall(answer(number))

    with serving(handler, unix=unix) as server:
        server.listener.close()
        with Load(server.address, connections=4) as load:
            load.more(20)
            # All are accepted, and those that are to hang do.
            wait_for(lambda: len(ports_behind(server.pid)) == 4)
            wait_for(lambda: load.begun - load.answered >= 2)
            death = strike(server.pid)
            wait_for(lambda: load.failed > 6)
            report = load.stop()

    inside = report.in_flight([death])
    excused = [each for each in inside if not each.good]
    others = report.unexcused([death])
    assert 2 <= len(excused) <= len(death.ports) == 4
    assert {each.outcome for each in excused} == {Outcome.RESET}
    assert len(excused) + len(others) == len(report.failed)
    assert death.ports.isdisjoint(each.port for each in others if each.turn)
    assert report.refused
    assert report.unexcused() == report.failed


def test_what_dies_in_a_queue_is_not_excused() -> None:
    """The process has not accepted it: who keeps the queue open loses nothing."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        with (
            living_child() as pid,
            Load(address, connections=3, requests=3) as load,
        ):
            wait_for(lambda: load.begun == 3)
            death = strike(pid)
            listener.close()
            report = load.wait()

    assert report.reset + report.refused == 3
    assert death.ports == frozenset()
    assert len(report.unexcused([death])) == 3


def test_both_ways_to_look_at_connections_agree() -> None:
    with serving(polite) as server, Load(server.address, connections=5) as load:
        load.more(100)
        by_door = ports_behind(server.pid)
        fds = Path(f"/proc/{server.pid}/fd").iterdir()
        names = [os.readlink(fd) for fd in fds]
        inodes = {name[8:-1] for name in names if name.startswith("socket:[")}
        by_table = frozenset(_ports_by_table(server.pid, inodes))
        ports = {each.port for each in load.stop()}

    assert by_door == ports
    # There the queue has a row as well, with the port 0.
    assert by_table - {0} == ports


def test_whoever_is_gone_cannot_be_killed() -> None:
    with living_child() as pid:
        assert strike(pid).ports == frozenset()
        os.waitpid(pid, 0)
        with pytest.raises(ProcessLookupError):
            strike(pid)


def test_only_the_time_of_death_excuses() -> None:
    death = Death(1, 10.0, 10.5, frozenset({7}))
    report = made_up([(9.0, 10.2), (10.4, 11.0), (8.0, 9.0), (11.0, 12.0)], port=7)
    other = made_up([(9.0, 10.2)], port=8)

    assert [each.number for each in report.in_flight([death])] == [0, 1]
    assert other.in_flight([death]) == []


# -- figures -------------------------------------------------------------------


def made_up(times: list[tuple[float, float]], port: int = 0) -> Report:
    """Make a report of good answers: when due, when done."""
    columns: dict[str, array[float] | array[int]] = {
        name: array(code, [200 if name == "status" else 0] * len(times))
        for name, code in caller.COLUMNS.items()
    }
    for name, at in (("due", 0), ("begun", 0), ("sent", 0), ("done", 1)):
        columns[name] = array("d", [each[at] for each in times])
    columns["port"] = array("i", [port] * len(times))
    stop = max(done for _, done in times)
    return Report(columns, range(len(times)), times[0][0], stop)


def test_percentiles_are_latencies_that_were_seen() -> None:
    report = made_up([(0.0, each / 1000) for each in range(1, 1001)])

    assert [report.percentile(share) for share in (0, 50, 99, 99.9, 100)] == [
        *(0.001, 0.5, 0.99, 0.999, 1.0)
    ]
    assert report.percentile(50, slow=None) == 0.5
    assert math.isnan(report.percentile(50, slow=True))


def test_a_part_of_the_run_is_a_report_too() -> None:
    report = made_up([(float(each), each + 0.5) for each in range(10)])
    part = report.between(2, 5)

    assert [each.number for each in part] == [2, 3, 4]
    assert (part.start, part.stop, part.good) == (2, 5, 3)
    assert part.rate == 1


def test_recovery_is_when_the_rate_is_back_and_stays() -> None:
    steady = [(each / 100, each / 100 + 0.001) for each in range(300)]
    gap = [(due, 1.2 if 1 <= due < 1.2 else done) for due, done in steady]

    assert made_up(steady).recovery(1.0, 90) == 0
    # The window may begin a little before, as it is not empty when it ends.
    assert 0.1 < made_up(gap).recovery(1.0, 90) <= 0.2
    assert made_up(gap).recovery(1.0, 1000) == math.inf


def test_numbers_are_plain_digits() -> None:
    assert caller.number(b"12") == 12
    assert caller.number(b"fF", 16) == 255
    for text in (b"", b"+1", b"1_0", b"x", b" 1"):
        with pytest.raises(caller.Garbled):
            caller.number(text)


@pytest.mark.parametrize(
    ("data", "end"),
    [
        (b"", -1),
        (b"5\r\nhel", -1),
        (b"5\r\nhello", -1),
        (b"0\r\n", -1),
        (b"0\r\n\r\n", 5),
        (b"5\r\nhello\r\n0\r\nA: b\r\n\r\nrest", 21),
    ],
)
def test_chunks_end_where_they_say(data: bytes, end: int) -> None:
    assert caller.end_of_chunks(data) == end
