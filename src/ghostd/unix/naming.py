"""What ``ps`` and ``top`` call a process (Linux)."""

from __future__ import annotations

import contextlib
import os


def rename(name: str) -> str:
    """
    Name this process; the kernel keeps 15 bytes.

    Returns:
        Its old name; "" where that cannot be read.
    """
    old = name_of(os.getpid())
    # Not /proc/self/comm: that belongs to root once a process has given up its rights.
    with (
        contextlib.suppress(OSError),
        open("/proc/thread-self/comm", "wb", buffering=0) as file,
    ):
        file.write(name.encode())
    return old


def name_of(pid: int) -> str:
    """Give the name of any process; "" where it cannot be read."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/comm", "rb") as file:
        return file.read().decode(errors="replace").rstrip("\n")
    return ""
