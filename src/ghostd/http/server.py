"""
HttpServer: a pool that serves an application.

The façade: what is set, and the hooks. What happens in a spirit is in `serving`,
how it leaves in `drain`.
"""

from __future__ import annotations

import os

from ghostd import settings
from ghostd.errors import GhostError, SettingsError
from ghostd.http.application import ApplicationError, find
from ghostd.http.settings import HTTP_CHECKS, HttpSettings, best_loop
from ghostd.loops import LoopSpirit, cleanup_time
from ghostd.prefork import Prefork
from ghostd.typed import TYPE_CHECKING, Any, ClassVar
from ghostd.unix.addresses import Inet, parse_all

if TYPE_CHECKING:
    from socket import socket

    from ghostd.http.serving import Loaded

_FILES = ("app_dir", "certfile", "keyfile", "ca_certs")


class HttpServer(Prefork):
    """
    A pool whose spirits run an ASGI or WSGI application.

    ``HttpServer(app="shop:app", listen=["127.0.0.1:8000"])``

    Args:
        keywords: the fields of `HttpSettings`, and all that `Prefork` takes.

    Raises:
        SettingsError: a keyword is unknown, or its value is not allowed.
    """

    _CHECKS: ClassVar[dict[str, settings.Check]] = {**Prefork._CHECKS, **HTTP_CHECKS}

    def _construct(self, keywords: dict[str, Any]) -> None:
        given = settings.checked(HTTP_CHECKS, keywords)
        if given.get("app") is None:
            raise SettingsError("app is missing: 'module:attribute', or a callable")
        given.setdefault("app_dir", HttpSettings.app_dir)
        # Absolute now: the daemon changes its folder, and must still find them.
        for name in _FILES:
            if name in given:
                given[name] = os.path.abspath(given[name])
        self.http_settings: HttpSettings = HttpSettings(**given)
        self._loaded: Loaded | None = None
        loop = keywords.get("loop") or best_loop()
        if loop == "trio":
            raise settings.refuse("loop", loop, "asyncio, uvloop: uvicorn runs on them")
        # The pool's threads run bodies; here there is one, and it is asynchronous.
        super()._construct({**keywords, "loop": loop, "threads": None})
        for address in parse_all(self.pool_settings.listen):
            if isinstance(address, Inet) and address.udp:
                raise settings.refuse("listen", address.text, "addresses without udp:")

    def load(self) -> None:
        """
        Import the application.

        Raises:
            ApplicationError: it cannot be imported, or it is no application.
        """
        from ghostd.http import serving

        chosen = self.http_settings
        app = chosen.app
        if isinstance(app, str):
            app = find(app, chosen.app_dir, factory=chosen.factory)
        elif chosen.factory:
            app = app()
        serving.route_logs(self.log, self.loglevel, access=chosen.access_log)
        self._loaded = serving.Loaded(
            app, chosen, self.log, lazy=not self.pool_settings.preload
        )

    async def spirit(self) -> None:
        """Serve until it is time to go."""
        from ghostd.http.serving import Serving

        if self._loaded is None:
            self.load()
        if self._loaded is None:
            raise ApplicationError("load() is overridden and does not call super()")
        pool = self.pool_settings
        serving = Serving(
            self._loaded,
            self.http_settings,
            _Body(self),
            self.log,
            shared=self._streams(own=False),
            own=self._streams(own=True),
            backlog=pool.backlog,
            jitter=pool.jitter,
            interval=pool.heartbeat_interval,
            cleanup=cleanup_time(pool.graceful_timeout),
        )
        await serving.run()

    def _streams(self, *, own: bool) -> list[socket]:
        view = self.sockets
        return [sock for name, sock in view.items() if view.is_own(name) is own]

    def _check_body(self) -> None:
        if not self.pool_settings.listen:
            error = GhostError(f"{self.name} has nothing to listen on")
            error.add_note("Give listen=['127.0.0.1:8000'], for example.")
            raise error
        super()._check_body()


class _Body:
    """The spirit as `serving` sees it."""

    def __init__(self, server: HttpServer) -> None:
        self._server = server

    def ready(self) -> None:
        self._server.ready()

    async def drained(self) -> None:
        await self._server.draining

    def tired(self, why: str) -> None:
        self._server.retire(why)

    def be_silent(self, silent: bool) -> None:
        spirit = self._server._daemon.spirit
        if isinstance(spirit, LoopSpirit):
            spirit.silent = silent
