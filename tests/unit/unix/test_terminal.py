"""Speaking to whoever typed a command, whoever listens."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SAYS = "import sys; from ghostd.unix import terminal; sys.exit(terminal.say('x') or 3)"


def ended(stdout: int) -> tuple[int, str]:
    run = subprocess.run(
        [sys.executable, "-c", SAYS],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    return run.returncode, run.stderr


def test_a_reader_that_has_gone_changes_nothing() -> None:
    read, write = os.pipe()
    os.close(read)
    code = ended(write)
    os.close(write)

    assert code == (3, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no disk that is full")
def test_what_cannot_be_written_is_told() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    code = ended(full)
    os.close(full)

    assert code == (1, "Cannot write to standard output: No space left on device\n")
