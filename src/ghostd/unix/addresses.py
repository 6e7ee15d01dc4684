"""
What may be listened on, as it is written in `listen`, and what it means.

Nothing is opened or looked up here: a mistake of spelling shows in the constructor, and
what the machine says to an address shows when the daemon opens it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from ghostd.errors import SettingsError
from ghostd.typed import NoReturn
from ghostd.values import Value

MOST_BITS = 0o777
HIGHEST_PORT = 65535
FIRST_PASSED = 3
OPTIONS = {
    "tcp": ("name",),
    "udp": ("name",),
    "unix": ("group", "mode", "name", "user"),
    "fd": ("name",),
    "systemd": ("name",),
}
"""Kinds of addresses, and what may stand behind the ``?`` of each."""

FORMS = (
    "HOST:PORT, [IPV6]:PORT, :PORT, udp:HOST:PORT, unix:/PATH, fd:NUMBER, systemd:NAME"
)

_DIGITS = 10
_HOST = frozenset("abcdefghijklmnopqrstuvwxyz0123456789.-_")
_HOST_V6 = frozenset("abcdefghijklmnopqrstuvwxyz0123456789:.%-_")


class Address(Value):
    """
    Something to listen on.

    Attributes:
        text: how it was written, without options; errors name it.
        name: under which its socket is found.
    """

    text: str
    name: str


class Inet(Address):
    """
    A port; *host* "" means every address of the machine, *udp* datagrams.

    Attributes:
        host: an address or a name, IPv6 without brackets.
        port: 0 to 65535; 0: the kernel chooses one.
        udp: datagrams and no connections.
    """

    host: str
    port: int
    udp: bool = False


class Unix(Address):
    """
    A name in the file system.

    Attributes:
        path: absolute.
        mode: its permission bits.
        user: who is to own it, name or number; None: whom the daemon becomes.
        group: which group, likewise.
    """

    path: str
    mode: int = 0o600
    user: str | int | None = None
    group: str | int | None = None


class Passed(Address):
    """An open descriptor that came with us through an exec."""

    fd: int


class Activated(Address):
    """What an init system opened, by the name that it has there; "": all of it."""

    label: str


Place = Inet | Unix | Passed | Activated
"""Any of them."""


def parse_all(texts: Iterable[str]) -> tuple[Place, ...]:
    """
    Read a list of addresses.

    Raises:
        SettingsError: one cannot be read, or two have the same name.
    """
    found: dict[str, Place] = {}
    for text in texts:
        address = parse(text)
        if address.name in found:
            raise SettingsError(
                f"listen has two sockets of the name {address.name!r}: "
                "give one of them another, with ?name=..."
            )
        found[address.name] = address
    return tuple(found.values())


def parse(text: str) -> Place:
    """
    Read one address: what it is, and behind a ``?`` its options.

    Raises:
        SettingsError: it cannot be read.
    """
    body, _, rest = text.partition("?")
    kind, colon, inner = body.partition(":")
    if not colon or kind not in OPTIONS:
        kind, inner = "tcp", body
    options = _options(text, kind, rest)
    name = options.get("name", body)
    match kind:
        case "unix":
            return _unix(text, body, name, inner, options)
        case "fd":
            return Passed(body, name, _passed(text, inner))
        case "systemd":
            if ":" in inner:
                _refuse(text, "name", inner, "a name without ':', or none for all")
            return Activated(body, name, inner)
        case _:
            host, port = _host_and_port(text, inner)
            return Inet(body, name, host, port, kind == "udp")


def _refuse(text: str, what: str, value: object, allowed: str) -> NoReturn:
    raise SettingsError(f"listen is {text!r}: {what} is {value!r}, allowed: {allowed}")


def _options(text: str, kind: str, rest: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for word in rest.split("&") if rest else ():
        key, equals, value = word.partition("=")
        if key not in OPTIONS[kind] or not equals or not value or key in found:
            allowed = " and ".join(f"{each}=..." for each in OPTIONS[kind])
            _refuse(text, "an option", word, f"{allowed}, once each, joined by '&'")
        found[key] = value
    return found


def _number(text: str) -> int:
    """Read a number of a few digits; -1: it is none."""
    sane = text.isascii() and text.isdigit() and len(text) <= _DIGITS
    return int(text) if sane else -1


def _host_and_port(text: str, inner: str) -> tuple[str, int]:
    host, colon, digits = inner.rpartition(":")
    letters = _HOST
    if host.startswith("[") and host.endswith("]") and ":" in host:
        host, letters = host[1:-1], _HOST_V6
    if not colon or not letters.issuperset(host.lower()):
        _refuse(text, "the address", inner, FORMS)
    port = _number(digits)
    if not 0 <= port <= HIGHEST_PORT:
        _refuse(text, "port", digits, f"0 to {HIGHEST_PORT}")
    return host, port


def _passed(text: str, inner: str) -> int:
    fd = _number(inner)
    if fd < FIRST_PASSED:
        # The first three are the standard streams, which a daemon has replaced.
        _refuse(text, "descriptor", inner, f"a number from {FIRST_PASSED}")
    return fd


def _unix(text: str, body: str, name: str, path: str, options: dict[str, str]) -> Unix:
    # "@" would be an abstract name, which no permission bits protect.
    if not path or path[0] == "@" or path[-1] == "/":
        _refuse(text, "path", path, "the path of a socket, absolute or from here")
    digits = options.get("mode", "600")
    octal = digits.isascii() and digits.isdigit() and not set(digits) & {"8", "9"}
    mode = int(digits, 8) if octal and len(digits) <= _DIGITS else -1
    if not 0 <= mode <= MOST_BITS:
        _refuse(text, "mode", digits, "octal digits from 000 to 777")
    accounts = [_account(options.get(key)) for key in ("user", "group")]
    # Absolute now: the daemon changes its folder.
    return Unix(body, name, os.path.abspath(path), mode, *accounts)


def _account(word: str | None) -> str | int | None:
    if word is None:
        return None
    number = _number(word)
    return word if number < 0 else number
