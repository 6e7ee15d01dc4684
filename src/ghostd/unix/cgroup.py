"""Limits that our control group, or any group above it, sets; Linux only."""

from __future__ import annotations

from collections.abc import Iterator

_ROOT = "/sys/fs/cgroup"
_OURS = "/proc/self/cgroup"


def folders(controller: str) -> Iterator[tuple[int, str]]:
    """Give version (1 or 2) and folder of each group whose limits bind us."""
    try:
        with open(_OURS) as file:
            lines = file.read().split()
    except OSError:
        return
    for line in lines:
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if number == "0":
            # A limit of any group above ours binds us too.
            while path not in ("", "/"):
                yield 2, f"{_ROOT}{path}"
                path = path.rsplit("/", 1)[0]
            yield 2, _ROOT
        elif controller in controllers.split(","):
            yield 1, f"{_ROOT}/{controller}{path.rstrip('/')}"
            yield 1, f"{_ROOT}/{controller}"


def words(path: str) -> list[str]:
    """Read a small file's words; [] where it cannot be read."""
    try:
        with open(path) as file:
            return file.read().split()
    except OSError:
        return []
