"""Sockets as a daemon opens them, in this very process."""

from __future__ import annotations

import errno
import gc
import json
import os
import select
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest
from tests.helpers import NOBODY, in_child, is_open, open_fds

from ghostd.errors import ListenError
from ghostd.unix import doors, fork, queues
from ghostd.unix.addresses import parse_all
from ghostd.unix.sockets import Sockets


@contextmanager
def opened(
    *listen: str,
    backlog: int = 1024,
    reuseport: bool = False,
    slots: int = 3,
    owner: tuple[int, int] | None = None,
) -> Iterator[Sockets]:
    """Have them open; what they warned of is in the attribute `warnings`."""
    sockets = Sockets(
        parse_all(listen), backlog=backlog, reuseport=reuseport, slots=slots
    )
    sockets.warnings = []  # type: ignore[attr-defined]  # for the tests
    sockets.open(owner, sockets.warnings.append)  # type: ignore[attr-defined]  # as above
    try:
        yield sockets
    finally:
        sockets.close()


def port_of(sockets: Sockets, number: int = 0) -> int:
    sock = list(sockets.listeners.values())[number].sock
    return int(sock.getsockname()[1])


def connected(port: int, host: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection((host, port), 10)


def waiting(sockets: Sockets) -> list[int]:
    """Count what waits in each queue of the first address, and accept it."""
    (listener, *_) = sockets.listeners.values()
    assert listener.queues is not None
    counts = []
    for sock in listener.queues.each():
        sock.setblocking(False)
        counts.append(0)
        while True:
            try:
                client, _address = sock.accept()
            except BlockingIOError:
                break
            client.close()
            counts[-1] += 1
    return counts


def call(port: int, times: int = 60) -> None:
    for _ in range(times):
        connected(port).close()


# -- one socket for everybody --------------------------------------------------


def test_they_are_open_close_on_exec_and_in_their_order() -> None:
    with opened("127.0.0.1:0?name=b", "udp:127.0.0.1:0?name=a", "[::1]:0") as sockets:
        assert list(sockets.listeners) == ["b", "a", "[::1]:0"]
        tcp, udp, v6 = (each.sock for each in sockets.listeners.values())
        assert [s.get_inheritable() for s in (tcp, udp, v6)] == [False] * 3
        assert [s.getblocking() for s in (tcp, udp, v6)] == [True] * 3
        assert tcp.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
        assert not udp.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
        assert v6.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
        where = [each.where for each in sockets.listeners.values()]
        assert where[0] == f"127.0.0.1:{tcp.getsockname()[1]}"
        assert where[1] == f"udp:127.0.0.1:{udp.getsockname()[1]}"
        assert where[2] == f"[::1]:{v6.getsockname()[1]}"

        connected(tcp.getsockname()[1]).close()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"hello", udp.getsockname())
        assert udp.recv(99) == b"hello"
    assert not sockets.listeners


def test_no_host_is_every_address_of_both_families() -> None:
    with opened(":0") as sockets:
        port = port_of(sockets)
        connected(port).close()
        connected(port, "::1").close()
        with (
            pytest.raises(ListenError, match=r"127\.0\.0\.1:\d+: Address already in"),
            opened(f"127.0.0.1:{port}"),
        ):
            pass


def test_without_ipv6_no_host_is_every_address_of_the_other_family(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class OldSocket(socket.socket):
        def __init__(self, family: int = -1, *rest: int, **more: int) -> None:
            if family == socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, "Address family not supported")
            super().__init__(family, *rest, **more)

    monkeypatch.setattr(socket, "socket", OldSocket)
    with opened(":0") as sockets:
        assert sockets.listeners[":0"].where.startswith("0.0.0.0:")
        with (
            pytest.raises(ListenError, match=r"listen on \[::1\]:0: Address family"),
            opened("[::1]:0"),
        ):
            pass


def test_a_name_is_its_first_ipv4_address() -> None:
    with opened("localhost:0") as sockets:
        assert sockets.listeners["localhost:0"].where.startswith("127.0.0.1:")


def test_all_or_none_is_open(tmp_path: Path) -> None:
    before = open_fds()
    path = tmp_path / "s"
    with opened("127.0.0.1:0") as sockets:
        taken = f"127.0.0.1:{port_of(sockets)}"
        with (
            pytest.raises(ListenError) as caught,
            opened(f"unix:{path}", "127.0.0.1:0", taken),
        ):
            pass
    assert str(caught.value) == f"cannot listen on {taken}: Address already in use"
    assert "tells who" in caught.value.__notes__[0]
    assert not path.exists()
    assert open_fds() == before


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("192.0.2.1:0", "Cannot assign requested address"),
        ("no-such-host.invalid:0", "no such host"),
        ("[::zz]:0", "no such host"),
        ("fd:999", "descriptor 999 is not open"),
        ("unix:/run/x?user=no-such-user", "user is 'no-such-user', and no user has"),
        ("unix:/run/x?group=no-such-group", "group is 'no-such-group', and no group"),
        ("unix:/no/such/folder/x", "folder /no/such/folder: No such file"),
    ],
)
def test_an_address_that_cannot_be_had_is_named(address: str, words: str) -> None:
    text = address.partition("?")[0]
    with pytest.raises(ListenError) as caught, opened(address):
        pass

    assert str(caught.value).startswith(f"cannot listen on {text}: ")
    assert words in str(caught.value)


def test_a_second_socket_that_is_bound_but_came_later_to_listen_is_in_use_too() -> None:
    """Two may bind with SO_REUSEADDR; the second to listen is told."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{other.getsockname()[1]}"
        with opened(place), pytest.raises(OSError, match="in use"):
            other.listen()


def test_a_socket_that_was_handed_over_is_taken_over() -> None:
    with socket.socket() as given, socket.socket(type=socket.SOCK_DGRAM) as udp:
        for each in (given, udp):
            each.bind(("127.0.0.1", 0))
            each.set_inheritable(True)
        port = given.getsockname()[1]
        numbers = given.detach(), udp.detach()
        with opened(*(f"fd:{n}" for n in numbers)) as sockets:
            assert sockets.meant == set(numbers)
            assert [each.sock.fileno() for each in sockets.listeners.values()] == list(
                numbers
            )
            assert not any(map(os.get_inheritable, numbers))
            connected(port).close()  # it did not listen before
            sockets.turn_away()
            connected(port).close()  # somebody else will answer
        assert not any(map(is_open, numbers))


def test_what_is_no_socket_to_listen_on_is_refused() -> None:
    one, other = socket.socketpair()
    with one, other, open(os.devnull) as file:
        for fd, words in ((file.fileno(), "is no socket"), (one.fileno(), "a conn")):
            with pytest.raises(ListenError, match=words), opened(f"fd:{fd}"):
                pass
            assert is_open(fd)


# -- what an init system passed ------------------------------------------------


ACTIVATED = """
import json, os, socket, sys
from ghostd.errors import ListenError
from ghostd.unix.addresses import parse_all
from ghostd.unix.sockets import Sockets

facts = json.loads(sys.argv[1])
made = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
for fd, sock in enumerate(made, 3):
    os.dup2(os.dup(sock.fileno()), fd + 50)
os.closerange(3, 50)
for fd in (3, 4, 5):
    os.dup2(fd + 50, fd)
os.closerange(50, 60)
os.environ.update({"LISTEN_PID": str(os.getpid()), **facts["variables"]})
sockets = Sockets(parse_all(facts["listen"]))
try:
    sockets.check()
    meant = sorted(sockets.meant)
    os.environ["LISTEN_PID"] = "1"  # as after the forks of a daemon
    sockets.open()
except ListenError as error:
    print(json.dumps([str(error), *getattr(error, "__notes__", ())]))
else:
    found = {name: each.sock.fileno() for name, each in sockets.listeners.items()}
    left = [name for name in os.environ if name.startswith("LISTEN_")]
    inherited = [fd for fd in found.values() if os.get_inheritable(fd)]
    print(json.dumps([found, meant, left, inherited]))
"""


def activated(*listen: str, **variables: str) -> list[object]:
    """Be started with three sockets, open some of them, tell what came of it."""
    given = {"LISTEN_FDS": "3", "LISTEN_FDNAMES": "web:admin:web", **variables}
    facts = json.dumps({"listen": listen, "variables": given})
    done = subprocess.run(
        [sys.executable, "-c", ACTIVATED, facts],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    answer: list[object] = json.loads(done.stdout)
    return answer


@pytest.mark.parametrize(
    ("listen", "names"),
    [
        (["systemd:admin"], {"systemd:admin": 4}),
        (["systemd:web?name=w"], {"w": 3, "w#2": 5}),
        (
            ["systemd:"],
            {"systemd:web": 3, "systemd:admin": 4, "systemd:web#2": 5},
        ),
        (
            ["systemd:admin?name=a", "systemd:web"],
            {"a": 4, "systemd:web": 3, "systemd:web#2": 5},
        ),
    ],
)
def test_what_an_init_system_passed_is_found_by_its_name(
    listen: list[str], names: dict[str, int]
) -> None:
    assert activated(*listen) == [names, [3, 4, 5], [], []]


def test_without_names_they_are_unknown_as_the_init_system_has_it() -> None:
    (names, *_) = activated("systemd:", LISTEN_FDNAMES="")

    assert names == {
        "systemd:unknown": 3,
        "systemd:unknown#2": 4,
        "systemd:unknown#3": 5,
    }


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"LISTEN_PID": "1"}, "they are for process 1 (LISTEN_PID), and this is"),
        ({"LISTEN_FDS": "-1"}, "LISTEN_FDS is '-1'"),
        ({"LISTEN_FDS": "abc"}, "LISTEN_FDS is 'abc'"),
        ({"LISTEN_FDS": "10000000"}, "LISTEN_FDS is '10000000'"),
        ({"LISTEN_FDS": "0"}, "LISTEN_FDS is '0'"),
        ({"LISTEN_FDS": "9"}, "descriptor 6 is not open"),
        ({"LISTEN_FDNAMES": "admin"}, "descriptor 6 is not open"),
    ],
)
def test_what_was_not_passed_to_us_is_refused_in_words(
    variables: dict[str, str], words: str
) -> None:
    if variables.get("LISTEN_FDNAMES"):
        (text, *_) = activated("systemd:web", **variables)
        words = "nothing was passed by that name, but 'admin', 'unknown'"
    else:
        (text, *_) = activated("systemd:", **variables)

    assert words in str(text)


def test_two_addresses_for_one_passed_socket_are_refused() -> None:
    (text, *_) = activated("systemd:web", "systemd:")

    assert text == (
        "cannot listen on systemd:: two sockets have the name 'systemd:web'"
    )


def test_nothing_that_was_passed_is_needed_by_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LISTEN_FDNAMES", "not:ours")
    with opened("127.0.0.1:0"):
        assert os.environ["LISTEN_FDNAMES"] == "not:ours"


# -- one queue for each slot ---------------------------------------------------


def test_connections_go_to_the_queues_of_those_who_are_there() -> None:
    with opened("127.0.0.1:0", reuseport=True, slots=5) as sockets:
        port = port_of(sockets)
        call(port)
        assert waiting(sockets) == [60, 0, 0, 0, 0]
        for slots in ({0, 1, 2, 3, 4}, {1, 2}, {4}, {0, 3}, {0, 2, 4}):
            sockets.steer(slots)
            call(port, 100)
            found = waiting(sockets)
            assert {slot for slot, number in enumerate(found) if number} == slots
            assert sum(found) == 100
        sockets.steer(())  # nobody: what comes waits for the next one
        call(port, 10)
        assert sum(waiting(sockets)) == 10
        assert not sockets.warnings  # type: ignore[attr-defined]  # see `opened`


def test_a_new_slot_brings_a_queue_and_the_kernel_is_told_only_on_change(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told = []
    attach = queues.attach
    monkeypatch.setattr(
        queues, "attach", lambda *args: (told.append(args), attach(*args))
    )
    with opened(
        "127.0.0.1:0", f"unix:{tmp_path}/s", reuseport=True, slots=1
    ) as sockets:
        first = sockets.lend(0)
        assert len(first) == 1
        assert len(sockets.lend(6)) == 1
        assert sockets.lend(0) == first
        assert len(waiting(sockets)) == 7
        for _ in range(3):
            sockets.steer(range(7))
        call(port_of(sockets), 700)
        assert all(waiting(sockets))
    assert len(told) == 2


@pytest.mark.parametrize("family", ["127.0.0.1", "::1"])
def test_datagrams_of_one_sender_go_to_one_spirit(family: str) -> None:
    host = f"[{family}]" if ":" in family else family
    for address in (f"udp:{host}:0", "udp::0"):
        with opened(address, reuseport=True, slots=4) as sockets:
            port = port_of(sockets)
            sockets.steer(range(4))
            (listener,) = sockets.listeners.values()
            assert listener.queues is not None
            kind = socket.AF_INET6 if ":" in family else socket.AF_INET
            senders = [socket.socket(kind, socket.SOCK_DGRAM) for _ in range(40)]
            for sender in senders * 3:
                sender.sendto(b"x", (family, port))
            heard: dict[object, set[int]] = {}
            for slot, sock in enumerate(listener.queues.each()):
                while select.select([sock], [], [], 0)[0]:
                    _, sender_ = sock.recvfrom(9)
                    heard.setdefault(sender_, set()).add(slot)
            for sender in senders:
                sender.close()
            assert {len(slots) for slots in heard.values()} == {1}
            assert len(heard) == 40
            assert len(set.union(*heard.values())) == 4


def test_the_address_of_another_daemon_is_in_use_although_the_kernel_would_share() -> (
    None
):
    for kind in ("", "udp:"):
        with opened(f"{kind}127.0.0.1:0", reuseport=True) as sockets:
            place = f"{kind}127.0.0.1:{port_of(sockets)}"
            with (
                pytest.raises(ListenError, match="Address already in use"),
                opened(place, reuseport=True),
            ):
                pass


@pytest.mark.root
def test_after_a_drop_of_rights_new_slots_share_the_queues_that_there_are() -> None:
    def body() -> object:
        with opened(
            "127.0.0.1:0", reuseport=True, slots=2, owner=(NOBODY, NOBODY)
        ) as sockets:
            os.setuid(NOBODY)
            before = [sockets.lend(slot) for slot in range(4)]
            after = [sockets.lend(slot) for slot in (5, 4, 7)]
            sockets.steer([5])
            call(port_of(sockets), 20)
            return before, after, waiting(sockets), sockets.warnings  # type: ignore[attr-defined]  # see `opened`

    before, after, counts, warnings = in_child(body)  # type: ignore[misc]

    assert len(set(before)) == 4, "twice as many as were wanted"
    assert after == [before[1], before[0], before[3]]
    assert counts == [0, 20, 0, 0]
    (warning,) = warnings
    assert "4 queues on 127.0.0.1:" in warning
    assert warning.endswith("which further spirits share: Address already in use")


def test_more_queues_than_are_sane_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues, "MOST", 3)
    with opened("127.0.0.1:0", reuseport=True, slots=5) as sockets:
        assert len(waiting(sockets)) == 3
        assert sockets.lend(4) == sockets.lend(1)
        assert len(sockets.warnings) == 1  # type: ignore[attr-defined]  # see `opened`


def test_gaps_cost_two_instructions_each() -> None:
    assert len(queues.steering(range(512))) == 3
    assert len(queues.steering([1, 511])) == 3 + 2 * 510
    assert len(queues.steering([0, 511], queues.BY_SENDER)) < 4096


def test_where_the_kernel_cannot_choose_one_queue_is_shared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doors, "FILTER", False)
    with opened("127.0.0.1:0", reuseport=True) as sockets:
        (listener,) = sockets.listeners.values()
        assert listener.queues is None
        assert sockets.lend(7) == ()
        sockets.steer([7])
        sockets.turn_away()
        connected(port_of(sockets)).close()
        (warning,) = sockets.warnings  # type: ignore[attr-defined]  # see `opened`
        assert "One queue for all spirits on 127.0.0.1:" in warning


def test_a_kernel_that_refuses_the_program_is_asked_only_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(queues, "_SO_ATTACH_REUSEPORT_CBPF", 9999)
    monkeypatch.setattr(queues.attach, "__defaults__", (9999,))
    before = open_fds()
    with opened("127.0.0.1:0", reuseport=True) as sockets:
        (warning,) = sockets.warnings  # type: ignore[attr-defined]  # see `opened`
        assert warning.endswith(": Protocol not available")
        connected(port_of(sockets)).close()
    assert open_fds() == before


# -- who has which descriptor --------------------------------------------------


def sockets_here() -> set[str]:
    return {name for name in open_fds().values() if name.startswith("socket:")}


def test_a_spirit_has_the_queues_of_its_slot_and_no_others() -> None:
    before = sockets_here()
    with opened("127.0.0.1:0", "[::1]:0", "udp:127.0.0.1:0", reuseport=True) as sockets:
        for each in sockets.listeners.values():
            each.sock.setblocking(False)
        shown = {}
        for slot in (0, 2):
            lent = sockets.lend(slot)

            def enter(
                _mask: object, slot: int = slot, lent: tuple[int, ...] = lent
            ) -> NoReturn:
                sockets.take(slot)
                found = [each.sock for each in sockets.listeners.values()]
                assert len(sockets_here() - before) == 3
                assert not any(sock.getblocking() for sock in found)
                assert [s.fileno() for s in found] == list(lent)
                os._exit(0)

            (pid,), error = fork.fork_each([(tuple(sorted(lent)), enter)])
            assert error is None
            shown[slot] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert shown == {0: 0, 2: 0}

        # A child of a hook's has none, and what it opens stays its own.
        def child_of_a_hook() -> object:
            none_left = sockets_here() - before
            fds = [os.open(os.devnull, os.O_RDONLY) for _ in range(20)]
            sockets.close()
            gc.collect()
            return none_left, all(map(is_open, fds))

        assert in_child(child_of_a_hook) == (set(), True)
        connected(port_of(sockets)).close()


def test_descriptors_that_were_sent_along_are_taken_by_their_new_numbers() -> None:
    with opened("127.0.0.1:0", reuseport=True) as sockets:
        (lent,) = sockets.lend(1)

        def body() -> object:
            sockets.take(1, [copy])
            sock = sockets.listeners["127.0.0.1:0"].sock
            return sock.fileno() == copy, sock.getsockname()[1]

        copy = os.dup(lent)
        assert in_child(body) == (True, port_of(sockets))
        os.close(copy)


def test_a_shared_socket_is_the_same_in_all() -> None:
    with opened("127.0.0.1:0") as sockets:
        (sock,) = (each.sock for each in sockets.listeners.values())
        assert sockets.lend(0) == ()

        def body() -> object:
            sockets.take(0)
            sockets.close()  # not ours to close
            return sockets.listeners["127.0.0.1:0"].sock.fileno()

        assert in_child(body) == sock.fileno()


# -- the end -------------------------------------------------------------------


@pytest.mark.parametrize("reuseport", [False, True])
def test_who_waits_when_the_end_comes_is_answered_and_nobody_else_comes(
    reuseport: bool,
) -> None:
    with opened("127.0.0.1:0", reuseport=reuseport) as sockets:
        sockets.steer(range(3))
        port = port_of(sockets)
        waiting_ones = [connected(port) for _ in range(9)]
        sockets.turn_away()
        sockets.turn_away()  # safe to repeat
        with socket.socket() as late:
            late.setblocking(False)
            assert late.connect_ex(("127.0.0.1", port)) == errno.EINPROGRESS
            served = 0
            for slot in range(3):
                if reuseport:
                    sockets.take(slot)
                for client in sockets.leftovers(0.01):
                    client.sendall(b"bye")
                    client.close()
                    served += 1
                if reuseport:
                    sockets.forget()
            assert served == 9
            for each in waiting_ones:
                assert each.recv(9) == b"bye"
                each.close()
            assert not select.select([], [late], [], 0.1)[1], "it was let in"


def test_what_is_still_on_its_way_to_an_own_queue_is_waited_for(tmp_path: Path) -> None:
    with opened(
        "127.0.0.1:0", f"unix:{tmp_path}/s", reuseport=True, slots=1
    ) as sockets:
        port = port_of(sockets)
        found = sockets.leftovers(20)
        for _ in range(2):
            with connected(port) as client, next(found) as server:
                server.sendall(b"x")
                assert client.recv(1) == b"x"
        found.close()
        assert not list(sockets.leftovers(0.01))
        assert sockets.listeners["127.0.0.1:0"].sock.getblocking()


def test_the_name_of_a_unix_socket_goes_before_the_last_ones_are_answered(
    tmp_path: Path,
) -> None:
    path = tmp_path / "s"
    with opened(f"unix:{path}") as sockets, socket.socket(socket.AF_UNIX) as client:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        client.connect(str(path))
        sockets.turn_away()
        assert not path.exists()
        (server,) = sockets.leftovers(0)
        server.sendall(b"bye")
        assert client.recv(9) == b"bye"
        server.close()


def test_of_a_socket_that_others_serve_only_so_much_is_left_over() -> None:
    with opened("127.0.0.1:0", backlog=4) as sockets:
        port = port_of(sockets)
        clients = [connected(port)]
        for server in sockets.leftovers(10):
            server.close()
            clients.append(connected(port))
        assert len(clients) == 5
        for client in clients:
            client.close()


@pytest.mark.parametrize("blocks", [True, False])
def test_whoever_leaves_does_not_change_for_others_whether_it_blocks(
    blocks: bool,
) -> None:
    """Another spirit has said so, and our own object knows nothing of it."""
    with opened("127.0.0.1:0") as sockets:
        (sock,) = (each.sock for each in sockets.listeners.values())
        fd = sock.fileno()
        in_child(lambda: os.set_blocking(fd, blocks))
        with connected(port_of(sockets)):
            (client,) = sockets.leftovers(0)
            assert client.getblocking()
            client.close()

        assert os.get_blocking(fd) == blocks
        assert sock.getblocking()
