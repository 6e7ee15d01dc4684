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
from collections.abc import Awaitable, Callable, Iterable

import uvicorn

from ghostd.http.application import ApplicationError, interface_of
from ghostd.http.drain import Drain, State
from ghostd.http.settings import HttpSettings
from ghostd.logs import ForeignLog, Log
from ghostd.settings import LEVELS
from ghostd.typed import Any

NOT_YET = 503
"""What a probe is answered with by an application that is still getting ready."""

FAILED = 500
_CERTIFICATES = {
    "none": ssl.CERT_NONE,
    "optional": ssl.CERT_OPTIONAL,
    "required": ssl.CERT_REQUIRED,
}


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
            record.msg = record.msg.rstrip("\n")
        if not self._is_foreign:
            self._log.logger.handle(record)
            return
        names = [name for name, number in LEVELS.items() if number <= record.levelno]
        self._log.log(
            names[-1] if names else "trace",
            record.getMessage(),
            exc_info=record.exc_info,
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


def configure(app: Any, settings: HttpSettings, threads: int) -> uvicorn.Config:
    """
    Make uvicorn's configuration, and load what it needs.

    Raises:
        ApplicationError: the application is of no known kind, or a file of TLS cannot
            be used.
    """
    interface = settings.interface
    if interface == "auto":
        interface = interface_of(app)
    if interface == "wsgi":
        from a2wsgi import WSGIMiddleware

        app = WSGIMiddleware(app, workers=threads)
    wsgi = interface == "wsgi"
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
        "ws": "none" if wsgi else settings.ws,
        "ws_max_size": settings.ws_max_size,
        "ws_per_message_deflate": settings.ws_per_message_deflate,
        "ws_ping_interval": settings.ws_ping_interval or None,
        "ws_ping_timeout": settings.ws_ping_timeout,
    }
    if settings.ciphers is not None:
        options["ssl_ciphers"] = settings.ciphers
    config = uvicorn.Config(app, **options)
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        if not config.is_ssl:
            raise
        raise ApplicationError(f"TLS cannot be used: {error}") from error
    return config


class Serving:
    """
    One spirit's life as a server.

    Args:
        config: what `configure` made.
        settings: of the server.
        sockets: where to listen.
        backlog: connections that may wait on each.
        jitter: by which share *max_requests* is lowered at most.
        tired: called when this spirit should be replaced.
    """

    def __init__(  # noqa: PLR0913 - each is one neighbour
        self,
        config: uvicorn.Config,
        settings: HttpSettings,
        sockets: Iterable[socket.socket],
        *,
        backlog: int,
        jitter: float,
        tired: Callable[[str], object],
    ) -> None:
        """Prepare; `run` does everything."""
        self._config = config
        self._settings = settings
        self._sockets = list(sockets)
        self._backlog = backlog
        self._log = logging.getLogger("uvicorn.error")
        limit = settings.max_requests
        if limit is not None:
            limit = max(1, limit - int(limit * jitter * random.random()))  # noqa: S311 - no secret
        self.state: State = State(
            config.encoded_headers, date=config.date_header, limit=limit, tired=tired
        )
        self._coming: weakref.WeakSet[Any] = weakref.WeakSet()
        self._servers: list[asyncio.AbstractServer] = []

    async def run(
        self,
        ready: Callable[[], object],
        draining: Awaitable[object],
        cleanup: float,
    ) -> None:
        """
        Start the application, serve until *draining* is over, drain, shut down.

        Cancel it when there is no more time: what is left is cut off then.

        Args:
            ready: called when clients are served.
            draining: what to wait for until the spirit is to leave.
            cleanup: seconds that are left after it is cancelled.

        Raises:
            ApplicationError: the application does not come up.
        """
        lifespan = self._config.lifespan_class(self._config)
        await self._start(lifespan)
        try:
            if self._settings.probe:
                await self._probe(self._settings.probe, lifespan.state)
            await self._listen(lifespan.state)
            ready()
            await draining
            await self._drain(lifespan.state, cleanup / 2)
        finally:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(cleanup / 2):
                    await lifespan.shutdown()

    async def _start(self, lifespan: Any) -> None:
        """Run the start-up of the application."""
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
            return
        said = ears.story()
        why = said.splitlines()[-1] if said else "it did not say why"
        error = ApplicationError(f"the application did not start: {why}")
        if said:
            error.add_note(said)
        raise error

    async def _drain(self, state: dict[str, Any], cleanup: float) -> None:
        await self._stop_accepting(state)
        self._log.info("Spirit %d is draining", os.getpid())
        drain = Drain(self.state, self._coming, self._settings.keepalive_drain)
        try:
            await drain.run()
        except asyncio.CancelledError:
            # Not passed on: the spirit ends, and in good order.
            if number := await drain.cut(cleanup):
                self._log.warning(
                    "%d request%s cut off: there was no more time",
                    number,
                    " was" if number == 1 else "s were",
                )

    async def _probe(self, path: str, state: dict[str, Any]) -> None:
        """Ask the application until it is ready."""
        pause = 0.05
        while (status := await self._ask(path, state)) == NOT_YET:
            await asyncio.sleep(pause)
            pause = min(1.0, 2 * pause)
        if status >= FAILED:
            raise ApplicationError(f"the probe {path} was answered with {status}")

    async def _ask(self, path: str, state: dict[str, Any]) -> int:
        route, _, query = path.partition("?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "https" if self._config.is_ssl else "http",
            "root_path": self._config.root_path,
            "path": self._config.root_path + route,
            "raw_path": (self._config.root_path + route).encode(),
            "query_string": query.encode(),
            "headers": [(b"host", b"localhost"), (b"user-agent", b"ghostd")],
            "client": ("127.0.0.1", 0),
            "server": ("127.0.0.1", 80),
            "state": state.copy(),
        }
        status = 0
        asked = False

        async def receive() -> dict[str, Any]:
            nonlocal asked
            if asked:
                await asyncio.Event().wait()
            asked = True
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            nonlocal status
            status = message.get("status", status)

        try:
            await self._config.loaded_app(scope, receive, send)
        except Exception as error:
            raise ApplicationError(f"the probe {path} failed: {error}") from error
        return status or FAILED

    # -- sockets ---------------------------------------------------------------

    def _protocol(self, state: dict[str, Any]) -> asyncio.Protocol:
        protocol: Any = self._config.http_protocol_class
        made: asyncio.Protocol = protocol(
            config=self._config, server_state=self.state, app_state=state
        )
        self._coming.add(made)
        return made

    async def _listen(self, state: dict[str, Any]) -> None:
        loop = asyncio.get_running_loop()
        self.state.connections.joined = self._coming.discard
        for sock in self._sockets:
            # A copy: the original is needed once more when the server is closed.
            server = await loop.create_server(
                lambda: self._protocol(state),
                sock=sock.dup(),
                ssl=self._config.ssl,
                backlog=self._backlog,
            )
            self._servers.append(server)

    async def _stop_accepting(self, state: dict[str, Any]) -> None:
        """Accept nobody else but those who wait already; leave the queue to others."""
        loop = asyncio.get_running_loop()
        for server in self._servers:
            server.close()
        for sock in self._sockets:
            for _ in range(self._backlog):
                try:
                    client, _address = sock.accept()
                except OSError:
                    break
                client.setblocking(False)
                await loop.connect_accepted_socket(
                    lambda: self._protocol(state), client, ssl=self._config.ssl
                )
            sock.close()
