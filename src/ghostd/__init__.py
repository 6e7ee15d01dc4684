"""ghostd: pre-forking daemons for Python."""

__version__ = "0.1.0"
