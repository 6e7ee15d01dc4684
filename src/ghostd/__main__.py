"""
``ghostd COMMAND`` and ``ghostd package.module:Class COMMAND``.

The first form needs the extra ``cli``. The second needs nothing: it obeys for a
daemon that has no script. The name may be that of a class, of an instance, or of a
function that makes one.
"""

from __future__ import annotations

import importlib.util
import sys

from ghostd import daemon
from ghostd.cli.plan import Plan, load, obey, read_aside
from ghostd.errors import GhostError
from ghostd.typed import NoReturn
from ghostd.unix import terminal

USAGE = "usage: ghostd package.module:Class COMMAND"
INTERRUPTED = 130


def main(arguments: list[str]) -> int:
    """Obey the command line; give the exit code."""
    if arguments and ":" in arguments[0] and not arguments[0].startswith("-"):
        return speak(arguments)
    if importlib.util.find_spec("click") is None:
        terminal.complain(USAGE)
        return terminal.complain(
            "All other commands need the extra 'cli': pip install 'ghostd[cli]'"
        )

    def reading() -> Plan | int:
        from ghostd.cli import command

        return command.main(arguments)

    plan = read_aside(reading)
    return plan if isinstance(plan, int) else obey(plan)


def speak(arguments: list[str]) -> int:
    """Obey for a daemon that has no script."""
    name, *words = arguments
    # The daemon is named after the class, not after this file.
    sys.argv = [name.rpartition(":")[2] or name, *words]
    try:
        ghost = load(name)
    except GhostError as error:
        return terminal.complain(daemon.say(error))
    return ghost.ctrl(words[0] if words else "")


def command() -> NoReturn:
    """Be the program ``ghostd``."""
    try:
        code = main(sys.argv[1:])
    except KeyboardInterrupt:
        code = INTERRUPTED
    sys.exit(code)


if __name__ == "__main__":
    command()
