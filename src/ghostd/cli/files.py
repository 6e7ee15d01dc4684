"""
Files that somebody else wrote: read as data, never as code, and never too much of it.

A file is regular, bounded in size, text in UTF-8, and as root refused where anybody may
write to it: who could write it could tell root what to run.
"""

from __future__ import annotations

import os
import re
import stat

from ghostd.errors import GhostError
from ghostd.typed import Any

LARGEST = 1 << 20
"""Bytes; a file that is longer holds no settings."""

_ASSIGNED = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)")
_QUOTED = re.compile(r"""'([^']*)'|"((?:[^"\\]|\\.)*)\"""")
_ESCAPED = re.compile(r"\\(.)")
_ESCAPES = {"n": "\n", "t": "\t"}


def toml(path: str, within: tuple[str, ...] = ()) -> dict[str, Any]:
    """
    Read a table of a TOML file; {} where it is not there.

    Args:
        path: of the file.
        within: names of the tables that lead to it.

    Raises:
        GhostError: the file cannot be read or trusted, or is none.
    """
    import tomllib

    data, mode = _bytes(path)
    try:
        found: Any = tomllib.loads(_text(path, data))
    # ValueError: also a number of thousands of digits, which no parser should read.
    except (ValueError, RecursionError) as error:
        words = str(error) or "nested too deeply"
        raise GhostError(f"{path} is not TOML: {words}") from None
    for name in within:
        found = found.get(name, {})
        if not isinstance(found, dict):
            raise GhostError(f"{path}: {'.'.join(within)} is no table")
    if found:  # a file that says nothing to us need not be trusted
        _trust(path, mode)
    return dict(found)


def variables(path: str) -> dict[str, str]:
    """
    Read a file of variables: ``NAME=value``, one a line, as Docker and systemd do.

    A value may stand in single quotes, which keep all as it is, or in double quotes,
    in which a backslash escapes. Nothing is expanded. ``#`` begins a comment.

    Raises:
        GhostError: the file cannot be read or trusted, or a line is no variable.
    """
    data, mode = _bytes(path)
    _trust(path, mode)
    found = {}
    for number, line in enumerate(_text(path, data).splitlines(), 1):
        words = line.strip()
        if words and not words.startswith("#"):
            assigned = _ASSIGNED.fullmatch(words)
            value = None if assigned is None else _value(assigned[2])
            if assigned is None or value is None or "\0" in value:
                raise GhostError(f"{path}, line {number}: allowed: NAME=value")
            found[assigned[1]] = value
    return found


def _value(text: str) -> str | None:
    """Read a value; None: it begins with a quote that nothing ends."""
    if text[:1] not in ("'", '"'):
        return re.split(r"(?:^|\s)#", text, maxsplit=1)[0].strip()
    quoted = _QUOTED.match(text)
    if quoted is None or not re.fullmatch(r"\s*(#.*)?", text[quoted.end() :]):
        return None
    if quoted[1] is not None:
        return quoted[1]
    return _ESCAPED.sub(lambda one: _ESCAPES.get(one[1], one[1]), quoted[2])


def _text(path: str, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise GhostError(f"{path} is not text in UTF-8: {error.reason}") from None


def _trust(path: str, mode: int) -> None:
    if os.geteuid() == 0 and mode & stat.S_IWOTH:
        error = GhostError(f"{path} can be written by anybody, and this is root")
        error.add_note(f"chmod o-w {path}")
        raise error


def _bytes(path: str) -> tuple[bytes, int]:
    """Read a regular file that is not too long; give its mode, too."""
    try:
        # Not blocking: it may turn out to be a FIFO that nobody writes to.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            mode = os.fstat(fd).st_mode
            if not stat.S_ISREG(mode):
                raise GhostError(f"{path} is no regular file")
            with open(fd, "rb", closefd=False) as file:
                data = file.read(LARGEST + 1)
        finally:
            os.close(fd)
    except OSError as error:
        raise GhostError(f"{path} cannot be read: {error.strerror}") from None
    if len(data) > LARGEST:
        raise GhostError(f"{path} is longer than {LARGEST} bytes")
    return data, mode
