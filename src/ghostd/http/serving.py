"""
Serving: uvicorn inside of a spirit, from the application's start-up to its shutdown.

This is the only part that loads uvicorn, and it is loaded in spirits only. Of uvicorn
it takes what speaks: its configuration, its protocols and the lifespan. When to
listen, to be ready, to drain and to leave is decided here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import socket
import ssl
import weakref
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from importlib.util import find_spec
from time import monotonic

import uvicorn

from ghostd.http.application import ApplicationError, interface_of, where
from ghostd.http.drain import Drain, State
from ghostd.http.gate import Gate
from ghostd.http.settings import HttpSettings
from ghostd.http.wsgi import Bridge, Errors, Threads
from ghostd.logs import ForeignLog, Log
from ghostd.settings import LEVELS
from ghostd.typed import Any, Protocol

NOT_YET = 503
"""What a probe is answered with by an application that is still getting ready."""

FAILED = 500
LONGEST_PAUSE = 1.0

DRAINING = "ghostd_draining"
"""Where the state of each request tells an application that the spirit leaves."""

LEFTOVERS = 0.5
"""Seconds in which a connection to a queue of our own is complete."""

_CERTIFICATES = {
    "none": ssl.CERT_NONE,
    "optional": ssl.CERT_OPTIONAL,
    "required": ssl.CERT_REQUIRED,
}
_CHATTER = ("Waiting for application", "Application ", "ASGI 'lifespan'")


class Body(Protocol):
    """What a server wants of the spirit that it runs in."""

    def ready(self) -> None:
        """Say that clients are served."""

    def drained(self) -> Coroutine[Any, Any, object]:
        """Wait until it is time to leave."""

    def tired(self, why: str) -> None:
        """Ask to be replaced."""

    def be_silent(self, silent: bool) -> None:
        """Send no beats, or send them again."""


# -- logs ----------------------------------------------------------------------


class Relay(logging.Handler):
    """Hands what uvicorn logs to the log of the daemon."""

    def __init__(self, log: Log) -> None:
        """Write to *log*."""
        super().__init__()
        self._log = log
        self._is_foreign = isinstance(log, ForeignLog)

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        if isinstance(record.msg, str):
            if record.msg.startswith(_CHATTER):
                record.levelno = logging.DEBUG
            record.msg = record.msg.rstrip("\n")
        if not self._is_foreign:
            if self._log.logger.isEnabledFor(record.levelno):
                self._log.logger.handle(record)
            return
        names = [name for name, number in LEVELS.items() if number <= record.levelno]
        error = record.exc_info[1] if record.exc_info else None
        self._log.log(
            names[-1] if names else "trace", record.getMessage(), exc_info=error
        )


class _Overhearing(logging.Handler):
    """Keeps what is said while the application starts, to tell why it did not."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def story(self) -> str:
        """Give what was said of errors, but for uvicorn's own last word."""
        texts = [
            logging.Formatter().format(record).strip()
            for record in self.records
            if record.levelno >= logging.ERROR
        ]
        return "\n".join(text for text in texts if not text.endswith("Exiting."))


def route_logs(log: Log, level: str, *, access: bool) -> None:
    """Make the loggers of uvicorn write to the log of the daemon."""
    logger = logging.getLogger("uvicorn")
    logger.handlers = [Relay(log)]
    logger.propagate = False
    # At DEBUG the websockets library logs each frame.
    number = LEVELS[level]
    logger.setLevel(number if number <= LEVELS["trace"] else max(number, logging.INFO))
    for name in ("uvicorn.error", "uvicorn.access", "uvicorn.asgi"):
        logging.getLogger(name).handlers = []
        logging.getLogger(name).setLevel(logging.NOTSET)
        logging.getLogger(name).propagate = True
    logging.getLogger("uvicorn.access").propagate = access


# -- configuration -------------------------------------------------------------


class Loaded:
    """
    An application, and all that is needed to serve it: what a mold can share.

    Args:
        app: the application.
        settings: of the server.
        log: where lines go.
        lazy: leave for later what may never be needed.

    Attributes:
        config: uvicorn's configuration, loaded.
        threads: those that run an application for WSGI; else None.

    Raises:
        ApplicationError: the application is of no known kind, or a file of TLS cannot
            be used.
    """

    def __init__(
        self, app: Any, settings: HttpSettings, log: Log, *, lazy: bool
    ) -> None:
        """Look at the application, and load what speaks for it."""
        kind = settings.interface
        if kind == "auto":
            kind = interface_of(app)
        self.threads: Threads | None = None
        if kind == "wsgi":
            self.threads = Threads(settings.threads, log.error)
            app = Bridge(app, self.threads, Errors(log.error))
        self.config: uvicorn.Config = _configure(
            app, settings, wsgi=kind == "wsgi", lazy=lazy
        )
        try:
            self.config.load()
        except (OSError, ssl.SSLError) as error:
            if not self.config.is_ssl:
                raise
            raise ApplicationError(f"TLS cannot be used: {error}") from error


def _configure(
    app: Any, settings: HttpSettings, *, wsgi: bool, lazy: bool
) -> uvicorn.Config:
    # What speaks WebSocket is a fifth of all that is to be imported, and most
    # applications never want it.
    is_later = lazy and settings.ws == "auto" and find_spec("websockets") is not None
    ws: Any = _websocket_later if is_later else settings.ws
    options: dict[str, Any] = {
        "access_log": settings.access_log,
        "date_header": settings.date_header,
        "forwarded_allow_ips": settings.forwarded_allow_ips,
        "headers": list(settings.headers),
        "http": settings.http,
        "interface": "asgi3",
        "lifespan": "off" if wsgi else settings.lifespan,
        "limit_concurrency": settings.limit_concurrency,
        "log_config": None,
        "proxy_headers": settings.proxy_headers,
        "root_path": settings.root_path,
        "server_header": settings.server_header,
        "ssl_ca_certs": settings.ca_certs,
        "ssl_cert_reqs": _CERTIFICATES[settings.client_cert],
        "ssl_certfile": settings.certfile,
        "ssl_keyfile": settings.keyfile,
        "ssl_keyfile_password": settings.keyfile_password,
        "timeout_keep_alive": settings.keepalive,
        "workers": 1,  # or it would read $WEB_CONCURRENCY
        "ws": "none" if wsgi else ws,
        "ws_max_size": settings.ws_max_size,
        "ws_per_message_deflate": settings.ws_per_message_deflate,
        "ws_ping_interval": settings.ws_ping_interval or None,
        "ws_ping_timeout": settings.ws_ping_timeout,
    }
    if settings.ciphers is not None:
        options["ssl_ciphers"] = settings.ciphers
    return uvicorn.Config(app, **options)


def _websocket_later(**options: Any) -> Any:
    """Load what speaks WebSocket when the first client wants it."""
    from uvicorn.protocols.websockets import auto

    kind: Any = auto.AutoWebSocketsProtocol
    return kind(**options)


# -- the life of a server ------------------------------------------------------


class Serving:
    """
    One spirit's life as a server.

    Args:
        loaded: what to serve.
        settings: of the server.
        shared: sockets from which other spirits accept, too.
        own: those at which clients wait for this one alone.
        body: the spirit.
        log: where lines go.
        backlog: connections that may wait on each socket.
        jitter: by which share *max_requests* is lowered at most.
        interval: seconds between two beats.
        cleanup: seconds that are left when `run` is cancelled.
    """

    def __init__(  # noqa: PLR0913 - each is one neighbour
        self,
        loaded: Loaded,
        settings: HttpSettings,
        body: Body,
        log: Log,
        *,
        shared: Iterable[socket.socket],
        own: Iterable[socket.socket],
        backlog: int,
        jitter: float,
        interval: float,
        cleanup: float,
    ) -> None:
        """Prepare; `run` does everything."""
        self._config = loaded.config
        self._threads = loaded.threads
        self._settings = settings
        self._body = body
        self._log = log
        self._shared = Gate(shared, backlog, self._config.ssl)
        self._own = Gate(own, backlog, self._config.ssl)
        self._interval = interval
        self._cleanup = cleanup
        limit = settings.max_requests
        if limit is not None:
            limit = max(1, limit - int(limit * jitter * random.random()))  # noqa: S311 - no secret
        self.state: State = State(
            self._config.encoded_headers,
            date=self._config.date_header,
            limit=limit,
            tired=body.tired,
        )
        self._coming: weakref.WeakSet[Any] = weakref.WeakSet()
        self._draining = asyncio.Event()

    async def run(self) -> None:
        """
        Start the application, serve until it is time to leave, drain, shut down.

        Cancel it when there is no more time: what is left is cut off then.

        Raises:
            ApplicationError: the application does not come up.
        """
        if self._threads is not None:
            self._threads.start()
        leaving = asyncio.ensure_future(self._body.drained())
        lifespan = await _unless(leaving, self._start())
        if lifespan is None:
            return
        factory = self._factory(lifespan.state)
        try:
            serves = await _unless(leaving, self._probe(lifespan.state))
            if serves:
                await self._shared.open(factory)
                await self._own.open(factory)
                self._body.ready()
                await self._serve(leaving)
        except BaseException:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._cleanup / 2):
                    await lifespan.shutdown()
            raise
        in_time = not serves or await self._drain()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if in_time else self._cleanup / 2):
                await lifespan.shutdown()

    async def _start(self) -> Any:
        """Run the start-up of the application; give its lifespan."""
        lifespan = self._config.lifespan_class(self._config)
        lifespan.state[DRAINING] = self._draining
        logger = logging.getLogger("uvicorn.error")
        ears = _Overhearing()
        logger.addHandler(ears)
        logger.propagate = False
        try:
            await lifespan.startup()
        finally:
            logger.removeHandler(ears)
            logger.propagate = True
        if not lifespan.should_exit:
            for record in ears.records:
                logger.handle(record)
            return lifespan
        said = ears.story()
        why = said.splitlines()[-1] if said else "it did not say why"
        error = ApplicationError(f"the application did not start: {why}")
        if said:
            error.add_note(said)
        raise error

    async def _serve(self, leaving: asyncio.Future[object]) -> None:
        """Wait until it is time to leave; say nothing while the threads are stuck."""
        if self._threads is None:
            await leaving
            return
        stuck = told = False
        while not (await asyncio.wait((leaving,), timeout=self._interval))[0]:
            was, stuck = stuck, self._threads.is_stuck(monotonic() - self._interval)
            if stuck != was:
                self._body.be_silent(stuck)
            elif stuck and not told:
                told = True
                self._log.warning(
                    "Spirit %d: all threads are busy, and none gets anywhere\n%s",
                    os.getpid(),
                    self._threads.where(),
                    extra={"event": "spirit.threads_stuck"},
                )
        self._body.be_silent(False)

    async def _drain(self) -> bool:
        """Answer what is there and what is on its way; tell whether it was in time."""
        busy = (lambda: 0) if self._threads is None else (lambda: self._busy_threads)
        drain = Drain(self.state, self._coming, busy, self._settings.keepalive_drain)
        self._draining.set()
        number = len(self.state.connections)
        self._log.info(
            "Spirit %d drains %d connections",
            os.getpid(),
            number,
            extra={"event": "spirit.draining", "connections": number},
        )
        try:
            await self._shared.close()
            if self._own:
                # A connection that began before we were told to leave may not be
                # complete yet, and has nobody else to go to.
                await asyncio.sleep(LEFTOVERS)
                await self._own.close()
            await drain.run()
        except asyncio.CancelledError:
            # Not passed on: the spirit ends, and in good order.
            if number := await drain.cut(self._cleanup / 2):
                self._log.warning(
                    "Spirit %d had no more time: %d requests were cut off",
                    os.getpid(),
                    number,
                    extra={"event": "request.cut", "requests": number},
                )
            return False
        return True

    @property
    def _busy_threads(self) -> int:
        return 0 if self._threads is None else self._threads.busy

    # -- the probe -------------------------------------------------------------

    async def _probe(self, state: dict[str, Any]) -> bool:
        """Ask the application until it is ready; `boot_timeout` ends that."""
        pause, path = 0.05, self._settings.probe
        while path and (status := await self._ask(path, state)) >= FAILED:
            if status != NOT_YET:
                raise ApplicationError(f"the probe {path} was answered with {status}")
            await asyncio.sleep(pause)
            pause = min(LONGEST_PAUSE, 2 * pause)
        return True

    async def _ask(self, path: str, state: dict[str, Any]) -> int:
        route, _, query = path.partition("?")
        root = self._config.root_path
        scope: Any = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "https" if self._config.is_ssl else "http",
            "root_path": root,
            "path": root + route,
            "raw_path": (root + route).encode(),
            "query_string": query.encode(),
            "headers": [(b"host", b"localhost"), (b"user-agent", b"ghostd")],
            "client": ("127.0.0.1", 0),
            "server": ("127.0.0.1", 80),
            "state": state.copy(),
        }
        status = 0
        asked = False

        async def receive() -> Any:
            nonlocal asked
            if asked:  # nobody leaves before the answer
                await asyncio.Event().wait()
            asked = True
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            nonlocal status
            status = message.get("status", status)

        try:
            await self._config.loaded_app(scope, receive, send)
        except Exception as error:
            raise ApplicationError(
                f"the probe {path} failed: {where(error)}"
            ) from error
        return status or FAILED

    # -- connections -----------------------------------------------------------

    def _factory(self, state: dict[str, Any]) -> Callable[[], asyncio.Protocol]:
        """Make what makes a protocol for each connection."""
        kind: Any = self._config.http_protocol_class
        make: Callable[[], asyncio.Protocol] = partial(
            kind,
            config=self._config,
            server_state=self.state,
            app_state=state,
        )
        if self._config.ssl is None:
            return make

        def tracked() -> asyncio.Protocol:
            # Hands are shaken before a connection is one, and it takes a while.
            protocol = make()
            self._coming.add(protocol)
            return protocol

        self.state.connections.joined = self._coming.discard
        return tracked


async def _unless(
    leaving: asyncio.Future[object], step: Coroutine[Any, Any, Any]
) -> Any:
    """
    Take a step towards serving, unless it is time to leave; then give None.

    Nothing is in progress yet, so a step that waits for something may be left.
    """
    task = asyncio.create_task(step)
    try:
        await asyncio.wait((leaving, task), return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        task.cancel()
