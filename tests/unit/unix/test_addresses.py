"""Addresses as they are written, and what they mean."""

from __future__ import annotations

import os

import pytest

from ghostd.errors import SettingsError
from ghostd.unix.addresses import (
    Activated,
    Inet,
    Passed,
    Place,
    Unix,
    parse,
    parse_all,
)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("127.0.0.1:80", Inet("127.0.0.1:80", "127.0.0.1:80", "127.0.0.1", 80)),
        ("localhost:0", Inet("localhost:0", "localhost:0", "localhost", 0)),
        (":65535", Inet(":65535", ":65535", "", 65535)),
        ("[::1]:8443", Inet("[::1]:8443", "[::1]:8443", "::1", 8443)),
        (
            "[fe80::1%eth0]:1",
            Inet("[fe80::1%eth0]:1", "[fe80::1%eth0]:1", "fe80::1%eth0", 1),
        ),
        ("tcp:a.b-c:1", Inet("tcp:a.b-c:1", "tcp:a.b-c:1", "a.b-c", 1)),
        ("udp::53", Inet("udp::53", "udp::53", "", 53, udp=True)),
        ("udp:[::]:53?name=dns", Inet("udp:[::]:53", "dns", "::", 53, udp=True)),
        ("unix:/run/s", Unix("unix:/run/s", "unix:/run/s", "/run/s", 0o600)),
        (
            "unix:/run/s?mode=0660&user=www&group=33&name=w",
            Unix("unix:/run/s", "w", "/run/s", 0o660, "www", 33),
        ),
        ("fd:3", Passed("fd:3", "fd:3", 3)),
        ("systemd:http", Activated("systemd:http", "systemd:http", "http")),
        ("systemd:?name=w", Activated("systemd:", "w", "")),
    ],
)
def test_what_is_written_is_what_is_meant(text: str, meant: Place) -> None:
    assert parse(text) == meant


def test_a_path_is_made_absolute_before_the_daemon_changes_its_folder() -> None:
    found = parse("unix:shop.sock")

    assert isinstance(found, Unix)
    assert found.path == os.path.abspath("shop.sock")
    assert found.name == "unix:shop.sock"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the address is '', allowed: HOST:PORT"),
        ("8000", "the address is '8000', allowed: HOST:PORT"),
        ("::1:8000", "the address is '::1:8000'"),
        ("[127.0.0.1]:80", "the address is"),
        ("[::1]", "the address is"),
        ("*:80", "the address is '*:80'"),
        ("a b:80", "the address is"),
        ("bücher:80", "the address is"),
        ("http://a:80", "the address is"),
        ("127.0.0.1:", "port is '', allowed: 0 to 65535"),
        ("127.0.0.1:http", "port is 'http', allowed: 0 to 65535"),
        ("127.0.0.1:65536", "port is '65536'"),
        ("127.0.0.1:-1", "port is '-1'"),
        ("127.0.0.1:+1", "port is '+1'"),
        ("127.0.0.1:1_0", "port is '1_0'"),
        ("127.0.0.1:٣", "port is '٣'"),
        ("127.0.0.1:" + "0" * 5000 + "1", "port is '000"),
        ("udp:9000", "the address is '9000'"),
        ("unix:", "path is ''"),
        ("unix:@shop", "path is '@shop', allowed: the path of a socket"),
        ("unix:/run/", "path is '/run/'"),
        ("unix:/run/s?mode=888", "mode is '888', allowed: octal digits"),
        ("unix:/run/s?mode=1777", "mode is '1777'"),
        ("unix:/run/s?mode=0o660", "mode is '0o660'"),
        ("unix:/run/s?mode", "an option is 'mode', allowed: group=... and mode=..."),
        ("unix:/run/s?user=", "an option is 'user='"),
        ("unix:/run/s?mode=600&mode=666", "an option is 'mode=666'"),
        ("127.0.0.1:80?mode=600", "an option is 'mode=600', allowed: name=..., once"),
        ("127.0.0.1:80?&", "an option is ''"),
        ("fd:", "descriptor is ''"),
        ("fd:2", "descriptor is '2', allowed: a number from 3"),
        ("fd:three", "descriptor is 'three'"),
        ("systemd:a:b", "name is 'a:b'"),
    ],
)
def test_a_mistake_is_refused_in_words(text: str, words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse(text)

    assert str(caught.value).startswith(f"listen is {text!r}: ")
    assert words in str(caught.value)


def test_the_order_is_kept_and_no_name_is_given_twice() -> None:
    assert [each.name for each in parse_all(["b:1", "a:1", "fd:9?name=c"])] == [
        "b:1",
        "a:1",
        "c",
    ]
    with pytest.raises(SettingsError, match=r"two sockets of the name 'a:1': .*name="):
        parse_all(["a:1", "fd:3?name=a:1"])
