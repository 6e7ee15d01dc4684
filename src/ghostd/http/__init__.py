"""
HTTP: a pool whose spirits run an ASGI or WSGI application.

`HttpServer` is a `ghostd.Prefork` with a body of its own: uvicorn, run inside of each
spirit on sockets that the daemon has opened. Importing this package loads neither
uvicorn nor the application: the manager never does, only spirits do.
"""

from ghostd.http.application import ApplicationError
from ghostd.http.server import HttpServer
from ghostd.http.settings import HttpSettings

__all__ = ["ApplicationError", "HttpServer", "HttpSettings"]
