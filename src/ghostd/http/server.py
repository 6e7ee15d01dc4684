"""
HttpServer: a pool that serves an application.

The façade: what is set, and the hooks. What happens in a spirit is in `serving`,
how it leaves in `drain`.
"""

from __future__ import annotations

import os

from ghostd import settings
from ghostd.errors import SettingsError
from ghostd.http.application import ApplicationError, find
from ghostd.http.settings import HTTP_CHECKS, HttpSettings
from ghostd.prefork import Prefork
from ghostd.typed import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import uvicorn

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
        for name in _FILES:
            if name in given:
                given[name] = os.path.abspath(given[name])
        self.http_settings: HttpSettings = HttpSettings(**given)
        self._config: uvicorn.Config | None = None
        super()._construct(keywords)

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
        self._config = serving.configure(app, chosen, self.pool_settings.threads)

    def spirit(self) -> None:
        """Serve until it is time to go."""
        from ghostd.http import runner
        from ghostd.http.serving import Serving

        if self._config is None:
            self.load()
        if self._config is None:
            raise ApplicationError("load() was overridden, and did not call super()")
        serving = Serving(
            self._config,
            self.http_settings,
            self.sockets.values(),
            backlog=self.pool_settings.backlog,
            jitter=self.pool_settings.jitter,
            tired=self._tired,
        )
        runner.run(self, serving)

    def _tired(self, why: str) -> None:
        self.log.info("Spirit %d wants to be replaced: %s", self.pid, why)
