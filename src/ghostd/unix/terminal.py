"""Speaking to whoever typed the command."""

from __future__ import annotations

import contextlib
import os
import sys


def say(text: str) -> int:
    """Print to standard output; give exit code 0, or 1 where that fails."""
    try:
        print(text, flush=True)  # noqa: T201 - the one place
    except OSError as error:
        let_go()
        # Who reads no more, as `head`, has what it wanted.
        if not isinstance(error, BrokenPipeError):
            return complain(f"Cannot write to standard output: {error.strerror}")
    return 0


def complain(text: str) -> int:
    """Print to standard error; give exit code 1."""
    # A closed standard error must not hide the exit code.
    with contextlib.suppress(OSError, ValueError, AttributeError):
        print(text.rstrip(), file=sys.stderr, flush=True)  # noqa: T201 - see above
    return 1


def let_go() -> None:
    """
    Write out what is buffered; where that fails, let it be lost.

    Python itself tries once more at its end, and turns every exit code into 120 when
    the terminal has been closed meanwhile.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, stream.fileno())
                os.close(null)
