"""
What `import ghostd` adds to a bare Python: time and memory, on each Python here.

Bare means a new and empty venv: what other people have installed may import half of
the standard library before we do. The modules that cost most of their own time are
in the notes, and on standard error.
"""

from __future__ import annotations

import contextlib
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator

from common import SOURCE, Figure, main, pythons, version_of

BARE = f"import sys; sys.path.insert(0, {str(SOURCE)!r})"
OURS = BARE + "; import ghostd"
# The child tells its own size: what wait4() tells includes ours before the exec.
SIZE = "; print(open('/proc/self/status').read())"
COSTLIEST = 8


def _run(python: str, code: str, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [python, "-I", *flags, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True)


@contextlib.contextmanager
def _venv(python: str) -> Iterator[str]:
    """Make an empty venv; give its Python."""
    with tempfile.TemporaryDirectory(prefix="ghostd-bench-") as home:
        command = [python, "-I", "-m", "venv", "--without-pip", "--symlinks", home]
        subprocess.run(command, check=True)
        yield f"{home}/bin/python"


def _milliseconds(python: str, code: str) -> tuple[float, float]:
    """Give the time that a program takes, and the processor time."""
    began = time.monotonic_ns()
    pid = os.posix_spawn(python, [python, "-I", "-c", code], dict(os.environ))
    _, status, used = os.wait4(pid, 0)
    ended = time.monotonic_ns()
    assert status == 0, f"{python} failed: {status}"
    return (ended - began) / 1e6, (used.ru_utime + used.ru_stime) * 1e3


def _mebibytes(python: str, code: str) -> float:
    found = re.search(r"VmRSS:\s+(\d+)", _run(python, code + SIZE).stdout)
    assert found
    return int(found[1]) / 1024


def _times(python: str, code: str) -> dict[str, tuple[int, int]]:
    """Read -X importtime: module to its own and its cumulative microseconds."""
    lines = _run(python, code, "-X", "importtime").stderr
    rows = re.findall(r"import time:\s+(\d+) \|\s+(\d+) \|\s*(\S+)", lines)
    return {name: (int(own), int(whole)) for own, whole, name in rows}


def costliest(python: str) -> dict[str, float]:
    """Give the modules with the highest own times that only ghostd brings, in ms."""
    bare = _times(python, BARE)
    best: dict[str, int] = {}
    for _ in range(5):
        for name, (own, _whole) in _times(python, OURS).items():
            if name not in bare:
                best[name] = min(own, best.get(name, own))
    order = sorted(best, key=lambda name: -best[name])
    return {name: best[name] / 1000 for name in order[:COSTLIEST]}


def imports(options: Namespace) -> Iterator[Figure]:
    """Run bare and importing Pythons in turns."""
    turns = 10 if options.short else 40
    for installed in pythons():
        version = version_of(installed)
        with _venv(installed) as python:
            _run(python, OURS)  # writes the .pyc files
            bare, ours = [], []
            for _ in range(turns):
                bare.append(_milliseconds(python, BARE))
                ours.append(_milliseconds(python, OURS))
            sizes = [_mebibytes(python, OURS) for _ in range(5)]
            least = min(_mebibytes(python, BARE) for _ in range(5))
            modules = costliest(python)
        floor, bare_cpu = map(statistics.median, zip(*bare, strict=True))
        added = [took - floor for took, _ in ours]
        figure = Figure("import.time", "ms added", added, python=version)
        # Where others want the processors too, this is nearer to the truth.
        cpu = statistics.median(used for _, used in ours) - bare_cpu
        figure.notes = {"bare_ms": round(floor, 2), "cpu_ms_added": round(cpu, 2)}
        figure.notes["costliest_ms"] = modules
        yield figure.within("median", 30)
        added = [each - least for each in sizes]
        figure = Figure("import.rss", "MiB added", added, python=version)
        figure.notes = {"bare_mib": round(least, 2)}
        yield figure.within("median", 5)
        words = (f"{name} {cost:.2f}" for name, cost in modules.items())
        print(
            f"python {version}, own ms of import: {', '.join(words)}", file=sys.stderr
        )


if __name__ == "__main__":
    sys.exit(main(imports))
