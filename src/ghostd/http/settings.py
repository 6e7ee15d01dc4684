"""
Every setting of an `HttpServer` that a pool has not, with its unit, default and check.

As in `ghostd.settings`: all durations are seconds, and values are checked when the
object is constructed, in the terminal of whoever made it.
"""

from __future__ import annotations

from ghostd.http.application import parse
from ghostd.settings import (
    Check,
    a_duration,
    a_path,
    a_positive_count,
    a_positive_duration,
    a_switch,
    refuse,
)
from ghostd.typed import Any
from ghostd.values import Value

INTERFACES = ("auto", "asgi", "wsgi")
PARSERS = ("auto", "httptools", "h11")
WEBSOCKETS = ("auto", "none", "websockets", "websockets-sansio", "wsproto")
LIFESPANS = ("auto", "on", "off")
CLIENT_CERTIFICATES = ("none", "optional", "required")


def an_application(name: str, value: object) -> Any:
    """Check ``"module:attribute"``, ``"module:factory()"``, or the application."""
    if isinstance(value, str):
        if parse(value) is not None:
            return value
    elif callable(value):
        return value
    raise refuse(name, value, "'module:attribute', 'module:factory()', or a callable")


def best_loop() -> str:
    """Name the loop that an application runs on if nobody says another."""
    from importlib.util import find_spec

    return "asyncio" if find_spec("uvloop") is None else "uvloop"


def one_of(*words: str) -> Check:
    """Make a check for one of *words*."""

    def check(name: str, value: object) -> str:
        if value not in words:
            raise refuse(name, value, ", ".join(words))
        return str(value)

    return check


def a_folder(name: str, value: object) -> str:
    """Check the path of a folder; ``os.PathLike`` is welcome."""
    if hasattr(value, "__fspath__"):
        value = value.__fspath__()
    if not isinstance(value, str) or not value or "\0" in value:
        raise refuse(name, value, "the path of a folder, as str or PathLike")
    return value


def a_url_path(name: str, value: object) -> str:
    """Check a path that a request can ask for."""
    if not isinstance(value, str) or not value.startswith("/") or not _visible(value):
        raise refuse(name, value, "a path that begins with '/', in ASCII")
    return value


def a_prefix(name: str, value: object) -> str:
    """Check a path below which an application is mounted; ``""`` for none."""
    return "" if value == "" else a_url_path(name, value).rstrip("/")


def some_hosts(name: str, value: object) -> str:
    """Check addresses or networks, as a list or separated by commas."""
    words = value if isinstance(value, list | tuple) else [value]
    if not all(isinstance(word, str) and _visible(word) for word in words):
        raise refuse(name, value, "addresses or networks, separated by commas, or '*'")
    return ",".join(map(str, words))


def some_headers(name: str, value: object) -> tuple[tuple[str, str], ...]:
    """Check headers: ``{"Name": "value"}``, pairs, or texts ``"Name: value"``."""
    allowed = "a mapping, pairs, or texts such as 'Name: value'"
    pairs = list(value.items()) if isinstance(value, dict) else value
    if not isinstance(pairs, list | tuple):
        raise refuse(name, value, allowed)
    found = []
    for pair in pairs:
        parts = pair.split(":", 1) if isinstance(pair, str) else pair
        if not isinstance(parts, list | tuple):
            raise refuse(name, value, allowed)
        if len(parts) != 2 or not all(isinstance(part, str) for part in parts):  # noqa: PLR2004 - a pair
            raise refuse(name, value, allowed)
        key, text = (part.strip() for part in parts)
        if not key or not _visible(key) or ":" in key or not text.isprintable():
            raise refuse(name, value, allowed)
        found.append((key, text))
    return tuple(found)


def a_text(name: str, value: object) -> str:
    """Check a text."""
    if not isinstance(value, str):
        raise refuse(name, value, "a text")
    return value


def a_pause_or_none_at_all(name: str, value: object) -> float:
    """Check a number of seconds, or 0 for never."""
    return value if value == 0 else a_positive_duration(name, value)


def _visible(text: str) -> bool:
    return bool(text) and text.isascii() and text.isprintable() and " " not in text


class HttpSettings(Value):
    """
    What an `HttpServer` can be told beside what its pool can.

    Attributes:
        app: the application: ``"module:attribute"``, a factory as
            ``"module:make_app()"``, or an object, which a reload cannot renew.
        factory: *app* is to be called, and gives the application.
        app_dir: folder where its module is looked for first; default: the current
            one. It is made absolute at construction.
        interface: what kind of application it is: ``auto`` looks at it.
        threads: number of threads that run an application for WSGI in each spirit.
        keepalive: seconds that an idle connection is kept open.
        keepalive_drain: seconds that an idle connection is kept open when the spirit
            is to leave, so that a request that was on its way is answered.
        max_requests: a spirit is replaced after so many; ``jitter`` lowers it. It
            answers some more: the manager hears of it within *heartbeat_interval*,
            and the successor must be ready first.
        probe: path that a spirit asks its own application for before it accepts
            anybody; an answer of 500 or more, or none, and it is not ready.
        access_log: one line in the log for each request.
        proxy_headers: believe ``X-Forwarded-For`` and ``-Proto`` of proxies.
        forwarded_allow_ips: which proxies are believed: addresses and networks,
            separated by commas, or ``*``; default: ``$FORWARDED_ALLOW_IPS``, else
            this machine's.
        root_path: path below which the proxy shows the application.
        http: what parses requests: ``auto`` takes httptools where it is installed.
        ws: what speaks WebSocket: ``auto`` takes websockets or wsproto.
        ws_max_size: bytes of a WebSocket message.
        ws_ping_interval: seconds between pings to each WebSocket; 0: none.
        ws_ping_timeout: seconds that a WebSocket may take to answer one.
        ws_per_message_deflate: compress WebSocket messages.
        lifespan: whether the application is told of start-up and shutdown; ``auto``:
            if it wants to.
        limit_concurrency: connections or running requests of a spirit above which a
            request is answered with 503.
        server_header: tell clients that this is uvicorn.
        date_header: tell clients the time.
        headers: more headers of each response, as pairs or ``"Name: value"``.
        certfile: path of the certificate chain; with it connections speak TLS. The
            user that the spirits run as must be able to read it, and the key.
        keyfile: path of the private key; default: in *certfile*.
        keyfile_password: what opens the private key.
        ca_certs: path of the certificates that clients are checked against.
        client_cert: whether a client must show a certificate.
        ciphers: OpenSSL's list of the ciphers that are allowed.
    """

    app: Any = None
    factory: bool = False
    app_dir: str = "."
    interface: str = "auto"
    threads: int = 4
    keepalive: float = 5
    keepalive_drain: float = 5
    max_requests: int | None = None
    probe: str | None = None
    access_log: bool = True
    proxy_headers: bool = True
    forwarded_allow_ips: str | None = None
    root_path: str = ""
    http: str = "auto"
    ws: str = "auto"
    ws_max_size: int = 16 << 20
    ws_ping_interval: float = 20
    ws_ping_timeout: float = 20
    ws_per_message_deflate: bool = True
    lifespan: str = "auto"
    limit_concurrency: int | None = None
    server_header: bool = True
    date_header: bool = True
    headers: tuple[tuple[str, str], ...] = ()
    certfile: str | None = None
    keyfile: str | None = None
    keyfile_password: str | None = None
    ca_certs: str | None = None
    client_cert: str = "none"
    ciphers: str | None = None


HTTP_CHECKS: dict[str, Check] = {
    "app": an_application,
    "factory": a_switch,
    "app_dir": a_folder,
    "interface": one_of(*INTERFACES),
    "threads": a_positive_count,
    "keepalive": a_duration,
    "keepalive_drain": a_duration,
    "max_requests": a_positive_count,
    "probe": a_url_path,
    "access_log": a_switch,
    "proxy_headers": a_switch,
    "forwarded_allow_ips": some_hosts,
    "root_path": a_prefix,
    "http": one_of(*PARSERS),
    "ws": one_of(*WEBSOCKETS),
    "ws_max_size": a_positive_count,
    "ws_ping_interval": a_pause_or_none_at_all,
    "ws_ping_timeout": a_positive_duration,
    "ws_per_message_deflate": a_switch,
    "lifespan": one_of(*LIFESPANS),
    "limit_concurrency": a_positive_count,
    "server_header": a_switch,
    "date_header": a_switch,
    "headers": some_headers,
    "certfile": a_path,
    "keyfile": a_path,
    "keyfile_password": a_text,
    "ca_certs": a_path,
    "client_cert": one_of(*CLIENT_CERTIFICATES),
    "ciphers": a_text,
}
