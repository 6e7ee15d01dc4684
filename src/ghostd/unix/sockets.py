"""
The sockets that a daemon listens on: opened once, kept for its whole life.

They are opened in the daemon, before rights are given up and before the first fork, and
belong to the manager. Spirits inherit them, so no reload and no death of a spirit takes
away what waits there.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from ghostd.errors import PrivilegeError
from ghostd.unix import activation, doors, ports, privilege, queues
from ghostd.unix.addresses import Activated, Address, Inet, Passed, Place, Unix
from ghostd.unix.poller import milliseconds
from ghostd.unix.queues import Queues
from ghostd.unix.socketfile import SocketFile

RESERVE = 2
"""Times as many queues as are wanted, where none can be opened later."""

Warn = Callable[[str], None]


class Listener:
    """
    One open socket, or all the queues of one address.

    Attributes:
        name: how spirits find it.
        where: what it listens on, for people; with the real port.
        sock: the socket; of queues the first one, in a spirit its own.
        queues: the queues, one for each slot; None: everybody shares the socket.
    """

    def __init__(
        self,
        name: str,
        sock: socket.socket,
        *,
        queues: Queues | None = None,
        file: SocketFile | None = None,
        foreign: bool = False,
    ) -> None:
        """Keep them together; *foreign*: whoever opened it goes on without us."""
        self.name: str = name
        self.sock: socket.socket = sock
        self.queues: Queues | None = queues
        self.where: str = ports.name(sock) if file is None else f"unix:{file.path}"
        self._file = file
        self._foreign = foreign

    def turn_away(self) -> None:
        """Let nobody in any more who does not wait already."""
        if self._file is not None:
            self._file.remove()
        elif not self._foreign and doors.FILTER and ports.is_tcp(self.sock):
            every = [self.sock] if self.queues is None else self.queues.each()
            for sock in every:
                # Without it those who come now are let in, and dropped at the end.
                with contextlib.suppress(OSError):
                    queues.turn_away(sock)

    def close(self) -> None:
        """Take its name away and close it."""
        if self._file is not None:
            self._file.remove()
        if self.queues is not None:
            self.queues.close()
        self.sock.close()


class Sockets:
    """
    All that a daemon listens on.

    Args:
        addresses: where, each under a name of its own.
        backlog: how many may wait to be accepted on each.
        reuseport: one queue for each slot on each port of ours.
        slots: how many slots are needed; more queues are opened as slots come.

    Attributes:
        listeners: what is open, by name, in the order of *addresses*.
    """

    def __init__(
        self,
        addresses: Iterable[Place],
        *,
        backlog: int = 1024,
        reuseport: bool = False,
        slots: int = 1,
    ) -> None:
        """Open nothing yet."""
        self.listeners: dict[str, Listener] = {}
        self._addresses = tuple(addresses)
        self._backlog = backlog
        self._reuseport = reuseport
        self._slots = self._queues = slots
        self._warn: Warn = print
        self._pid = 0
        self._passed: dict[int, str] = {}
        self._turned_away = False

    # -- before the forks ------------------------------------------------------

    def check(self) -> None:
        """
        Find out, in the process that was started, what would fail for sure.

        Raises:
            ListenError: nothing was passed to this process, or not what is named; or
                a user or group is unknown.
        """
        if not self._pid:
            for address in self._addresses:
                if isinstance(address, Activated):
                    self._claim(address)
                elif isinstance(address, Passed):
                    _refuse_no_socket(address, address.fd)
                elif isinstance(address, Unix):
                    _owner(address)

    def _claim(self, address: Activated) -> None:
        self._passed = self._passed or activation.labels()
        if not self._passed:
            error = ports.refusal(address, activation.why_none())
            error.add_note(
                "Start it by its socket unit, or by systemd-socket-activate."
            )
            raise error
        if not self._labelled(address):
            names = ", ".join(map(repr, dict.fromkeys(self._passed.values())))
            raise ports.refusal(
                address, f"nothing was passed by that name, but {names}"
            )
        for fd in self._labelled(address):
            _refuse_no_socket(address, fd)

    def _labelled(self, address: Activated) -> dict[int, str]:
        """Give what was passed by the name of *address*; all of it if it has none."""
        return {
            fd: label
            for fd, label in self._passed.items()
            if address.label in ("", label)
        }

    @property
    def meant(self) -> set[int]:
        """Give the descriptors that must not be closed when the daemon detaches."""
        fds = {each.fd for each in self._addresses if isinstance(each, Passed)}
        return fds.union(self._passed)

    # -- in the daemon ---------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Tell whether they are open, here or in the process we were forked from."""
        return self._pid != 0

    def open(self, owner: tuple[int, int] | None = None, warn: Warn = print) -> None:
        """
        Open all of them, or none.

        Args:
            owner: user and group that the daemon becomes; None: it stays who it is.
            warn: is told what is not as it was asked for, now and later.

        Raises:
            ListenError: one cannot be opened; the message names it.
        """
        self.check()
        self._warn = warn
        self._pid = os.getpid()
        # Nobody but who opened the first queue of an address can add another.
        drops = owner is not None and os.geteuid() == 0
        self._queues = self._slots * (RESERVE if drops else 1)
        _everybodys.add(self)
        try:
            for address in self._addresses:
                for listener in self._open(address, owner):
                    self.listeners[listener.name] = listener
        except BaseException:
            self.close()
            raise
        if self._passed:
            activation.forget()

    def _open(
        self, address: Place, owner: tuple[int, int] | None
    ) -> Iterator[Listener]:
        match address:
            case Inet():
                yield self._open_inet(address)
            case Unix():
                yield self._open_unix(address, owner or (-1, -1))
            case Passed():
                yield self._adopt(address, address.name, address.fd)
            case Activated():
                yield from self._adopt_all(address)

    def _open_inet(self, address: Inet) -> Listener:
        try:
            if not self._reuseport:
                return Listener(address.name, ports.bound(address, self._backlog))
            if not doors.FILTER:
                why = "this system cannot say which queue is next"
            else:
                try:
                    return self._open_queues(address)
                except _NoQueues as error:
                    why = str(error)
            listener = Listener(address.name, ports.bound(address, self._backlog))
        except OSError as error:
            raise ports.explained(address, error) from None
        self._warn(f"One queue for all spirits on {listener.where}: {why}")
        return listener

    def _open_queues(self, address: Inet) -> Listener:
        # The kernel lets anybody of our user join who asks for it, and would let us
        # join another daemon: that address is in use.
        ports.bound(address, self._backlog).close()
        first = ports.bound(address, 0, reuseport=True)
        try:
            found = Queues(
                first,
                partial(ports.another, first, None if address.udp else self._backlog),
                queues.BY_SENDER if address.udp else queues.BY_CHANCE,
            )
        except OSError as error:
            first.close()
            raise _NoQueues(error.strerror) from None
        try:
            if not address.udp:
                first.listen(self._backlog)
        except BaseException:
            found.close()
            raise
        listener = Listener(address.name, first, queues=found)
        self._grow(listener, self._queues)
        return listener

    def _grow(self, listener: Listener, number: int) -> None:
        if listener.queues is not None and (why := listener.queues.grow(number)):
            self._warn(
                f"{len(listener.queues.fds)} queues on {listener.where}, which further "
                f"spirits share: {why}"
            )

    def _open_unix(self, address: Unix, owner: tuple[int, int]) -> Listener:
        uid, gid = _owner(address)
        file = SocketFile(
            address.path,
            address.mode,
            owner[0] if uid < 0 else uid,
            owner[1] if gid < 0 else gid,
            trusted=frozenset({owner[0]}),
        )
        sock = socket.socket(socket.AF_UNIX)
        try:
            file.bind(sock, self._backlog)
        except BaseException:
            sock.close()
            raise
        return Listener(address.name, sock, file=file)

    def _adopt_all(self, address: Activated) -> Iterator[Listener]:
        taken: dict[str, int] = {}
        for fd, label in sorted(self._labelled(address).items()):
            name = address.name
            if name == "systemd:":
                name += label  # as it would be called if it had been asked for
            taken[name] = taken.get(name, 0) + 1
            if taken[name] > 1:
                name = f"{name}#{taken[name]}"
            if name in self.listeners:
                raise ports.refusal(address, f"two sockets have the name {name!r}")
            yield self._adopt(address, name, fd)

    def _adopt(self, address: Address, name: str, fd: int) -> Listener:
        """Take over a socket that somebody else has opened."""
        _refuse_no_socket(address, fd)
        sock = socket.socket(fileno=fd)
        try:
            sock.set_inheritable(False)
            if sock.type in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
                self._have_it_listen(address, sock)
        except BaseException:
            sock.detach()
            raise
        return Listener(name, sock, foreign=True)

    def _have_it_listen(self, address: Address, sock: socket.socket) -> None:
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return
        with contextlib.suppress(OSError):
            sock.getpeername()
            raise ports.refusal(
                address, f"descriptor {sock.fileno()} is a connection of its own"
            )
        try:
            sock.listen(self._backlog)
        except OSError as error:
            raise ports.explained(address, error) from None

    def close(self) -> None:
        """Close all, and take away the names that are still ours. May be repeated."""
        if self._pid == os.getpid():
            _everybodys.discard(self)
            for listener in self.listeners.values():
                listener.close()
            self.listeners.clear()
            self._pid = 0
            self._turned_away = False

    # -- in the manager --------------------------------------------------------

    def lend(self, slot: int) -> tuple[int, ...]:
        """
        Give what a newborn of this slot may keep of the private descriptors.

        One for each listener that has queues, in order; they are opened if need be.
        """
        found = []
        for listener in self.listeners.values():
            if listener.queues is not None:
                self._grow(listener, slot + 1)
                found.append(listener.queues.of(slot))
        return tuple(found)

    def steer(self, slots: Iterable[int]) -> None:
        """Have the kernel choose the queues of these slots only; cheap if they are."""
        slots = frozenset(slots)
        for listener in self.listeners.values():
            if listener.queues is not None:
                listener.queues.steer(slots)

    def turn_away(self) -> None:
        """
        Let nobody in any more, so that what waits can be answered to the last one.

        Sockets that others opened stay as they are: somebody else will serve them.
        """
        if not self._turned_away:
            self._turned_away = True
            for listener in self.listeners.values():
                listener.turn_away()

    # -- in the children -------------------------------------------------------

    def take(self, slot: int, fds: Iterable[int] | None = None) -> None:
        """
        Be a spirit of this slot: its own queues are the sockets from now on.

        Args:
            slot: which one.
            fds: what `lend` gave, by the numbers that they have in this process; None:
                they are the same.
        """
        own = [each for each in self.listeners.values() if each.queues is not None]
        numbers = [each.queues.of(slot) for each in own if each.queues is not None]
        for listener, fd in zip(own, numbers if fds is None else fds, strict=True):
            old = listener.sock
            old.detach()  # a socket that is dropped closes whatever has its number
            listener.sock = socket.socket(old.family, old.type, old.proto, fileno=fd)
            if old.gettimeout() == 0:
                # Whoever said so in `init` meant all of them.
                listener.sock.setblocking(False)

    def leftovers(self, patience: float) -> Iterator[socket.socket]:
        """Accept what waits, and for *patience* seconds what still comes to queues."""
        until = time.monotonic() + patience
        own = {}
        for listener in self.listeners.values():
            if listener.sock.type == socket.SOCK_DGRAM:
                continue
            if listener.queues is not None:
                own[listener.sock.fileno()] = listener.sock
            # Others may go on serving it: who waits now is meant, not who comes then.
            for _ in range(self._backlog):
                if (client := _accepted(listener.sock)) is None:
                    break
                yield client
        poll = select.poll()
        for fd in own:
            poll.register(fd, select.POLLIN)
        while own and (left := until - time.monotonic()) > 0:
            for fd, _ in poll.poll(milliseconds(left)):
                if (client := _accepted(own[fd])) is not None:
                    yield client

    def forget(self) -> None:
        """In a child: what was private is closed, and its number may be taken again."""
        for listener in self.listeners.values():
            if listener.queues is not None:
                listener.sock.detach()


_everybodys: set[Sockets] = set()


def _forget_all() -> None:
    for sockets in _everybodys:
        sockets.forget()


os.register_at_fork(after_in_child=_forget_all)


class _NoQueues(Exception):
    """The kernel cannot choose among queues."""


def _accepted(sock: socket.socket) -> socket.socket | None:
    """Accept a connection if one waits."""
    # Whether it blocks is a property of the socket, whatever our object believes of it:
    # others wait there, too.
    blocks = os.get_blocking(sock.fileno())
    if blocks:
        os.set_blocking(sock.fileno(), False)
    try:
        while True:
            # Aborted: it hung up while it waited.
            with contextlib.suppress(ConnectionAbortedError):
                client, _ = sock.accept()
                client.setblocking(True)
                return client
    except BlockingIOError:
        return None
    finally:
        if blocks:
            os.set_blocking(sock.fileno(), True)


def _owner(address: Unix) -> tuple[int, int]:
    """Turn the names of an owner into numbers, -1 for what is not given."""
    try:
        uid = -1 if address.user is None else privilege.user_id(address.user)
        gid = -1 if address.group is None else privilege.group_id(address.group)
    except PrivilegeError as error:
        raise ports.refusal(address, str(error)) from None
    return uid, gid


def _refuse_no_socket(address: Address, fd: int) -> None:
    try:
        info = os.fstat(fd)
    except OSError:
        raise ports.refusal(address, f"descriptor {fd} is not open") from None
    if not stat.S_ISSOCK(info.st_mode):
        raise ports.refusal(address, f"descriptor {fd} is no socket")
