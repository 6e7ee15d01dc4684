"""Speaking to whoever typed the command."""

from __future__ import annotations

import contextlib
import sys


def say(text: str) -> int:
    """Print to standard output; give exit code 0."""
    print(text, flush=True)  # noqa: T201 - the one place
    return 0


def complain(text: str) -> int:
    """Print to standard error; give exit code 1."""
    # A closed standard error must not hide the exit code.
    with contextlib.suppress(OSError, ValueError, AttributeError):
        print(text.rstrip(), file=sys.stderr, flush=True)  # noqa: T201 - see above
    return 1
