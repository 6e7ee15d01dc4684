"""
``python -m ghostd package.module:Class COMMAND``: a daemon that has no script.

The name may be that of a class, of an instance, or of a function that makes one.
"""

from __future__ import annotations

import importlib
import os
import sys

from ghostd.errors import GhostError
from ghostd.ghost import Ghost
from ghostd.typed import NoReturn
from ghostd.unix import terminal

USAGE = "usage: python -m ghostd package.module:Class COMMAND"


def load(name: str) -> Ghost:
    """
    Find and make the ghost of that name.

    Raises:
        GhostError: there is no such module or name, or it is no ghost.
    """
    module_name, colon, path = name.partition(":")
    if not (module_name and colon and path):
        raise GhostError(f"{name!r} is not of the form package.module:Class")
    sys.path.insert(0, os.getcwd())
    try:
        found = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise GhostError(f"no module {module_name!r}") from None
    for part in path.split("."):
        if not hasattr(found, part):
            raise GhostError(f"{module_name!r} has no {path!r}")
        found = getattr(found, part)
    made = found() if callable(found) else found
    if not isinstance(made, Ghost):
        raise GhostError(f"{name!r} is a {type(made).__name__}, not a Ghost")
    return made


def main(arguments: list[str]) -> int:
    """Obey the command line; give the exit code."""
    if not arguments or arguments[0] in {"-h", "--help"}:
        return terminal.say(USAGE) if arguments else terminal.complain(USAGE)
    name, *words = arguments
    # The daemon is named after the class, not after this file.
    sys.argv = [name.rpartition(":")[2] or name, *words]
    try:
        ghost = load(name)
    except GhostError as error:
        return terminal.complain(str(error))
    return ghost.ctrl(words[0] if words else "")


def command() -> NoReturn:
    """Be the program ``ghostd``."""
    sys.exit(main(sys.argv[1:]))


if __name__ == "__main__":
    command()
