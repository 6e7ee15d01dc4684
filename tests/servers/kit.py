"""
Servers for tests: each in a folder of its own, on a Unix socket, gone with its block.

Nothing here listens on the network, and a server dies with the process that started it,
whatever ends that.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import redis

LIMIT = 30.0
NOBODY = 65534
PLACES = ("/usr/lib/postgresql/*/bin", "/usr/local/pgsql/bin")
"""Where Debian, and PostgreSQL's own installation, put what is not for users."""


class Missing(Exception):
    """A server is not installed."""


def program(name: str, package: str) -> str:
    """
    Give the path of a program.

    Raises:
        Missing: there is none; it says what would bring it.
    """
    found = shutil.which(name)
    for place in PLACES:
        for folder in sorted(Path("/").glob(place.lstrip("/"))):
            found = found or shutil.which(name, path=folder)
    if found is None:
        raise Missing(f"{name} is missing: apt-get install {package}")
    return found


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """Give a folder that belongs to whom the servers run as."""
    folder = Path(tempfile.mkdtemp(prefix="ghostd-server-"))
    try:
        if os.geteuid() == 0:
            os.chown(folder, NOBODY, NOBODY)
        yield folder
    finally:
        shutil.rmtree(folder)


def _as_nobody(*command: str) -> list[str]:
    """Give the words that run a program without rights, for no longer than we live."""
    words = [program("setpriv", "util-linux"), "--pdeathsig=KILL"]
    if os.geteuid() == 0:
        words += [f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    return [*words, *command]


@contextlib.contextmanager
def _running(command: list[str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server, with its output in a file."""
    with (folder / "output").open("wb") as output:
        server = subprocess.Popen(
            _as_nobody(*command),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield server
    except BaseException as error:
        error.add_note((folder / "output").read_text(errors="replace")[-2000:])
        raise
    finally:
        server.send_signal(signal.SIGINT)  # to PostgreSQL TERM would be a polite wish
        try:
            server.wait(10)
        finally:
            server.kill()
            server.wait()


def _wait_for_socket(server: subprocess.Popen[bytes], path: Path) -> None:
    """Wait until somebody listens there."""
    until = time.monotonic() + LIMIT
    while server.poll() is None and time.monotonic() < until:
        with socket.socket(socket.AF_UNIX) as sock, contextlib.suppress(OSError):
            sock.connect(str(path))
            return
        time.sleep(0.01)
    raise AssertionError(f"nobody listens at {path}")


@contextlib.contextmanager
def redis_server() -> Iterator[str]:
    """
    Run Redis; give its URL.

    Raises:
        Missing: it is not installed.
    """
    server = program("redis-server", "redis-server")
    with _folder() as folder:
        path = folder / "socket"
        options = {"port": "0", "unixsocket": str(path), "save": "", "dir": str(folder)}
        words = [
            word for name, value in options.items() for word in (f"--{name}", value)
        ]
        with _running([server, *words], folder) as process:
            _wait_for_socket(process, path)
            yield f"unix://{path}"


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """
    Run PostgreSQL; give what to connect with.

    Raises:
        Missing: it is not installed.
    """
    initdb = program("initdb", "postgresql")
    server = program("postgres", "postgresql")
    with _folder() as folder:
        data = folder / "data"
        made = subprocess.run(
            _as_nobody(
                *(initdb, "--no-sync", "--auth=trust", "--username=test"),
                *("--locale=C", "--encoding=UTF8", f"--pgdata={data}"),
            ),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
        assert made.returncode == 0, made.stdout + made.stderr
        options = {
            "listen_addresses": "",
            "unix_socket_directories": str(folder),
            "fsync": "off",  # what a power cut does is none of these tests' business
            "autovacuum": "off",
            "max_connections": "50",
            "shared_buffers": "16MB",
        }
        words = [word for pair in options.items() for word in ("-c", "=".join(pair))]
        with _running([server, "-D", str(data), *words], folder) as process:
            _wait_for_socket(process, folder / ".s.PGSQL.5432")
            yield f"host={folder} user=test dbname=postgres"


def ask_redis(url: str) -> redis.Redis:
    """Connect to Redis."""
    return redis.Redis.from_url(url, decode_responses=True)


def ask_postgres(where: str) -> psycopg.Connection:
    """Connect to PostgreSQL, as soon as it lets us in."""
    until = time.monotonic() + LIMIT
    while True:
        try:
            return psycopg.connect(where, autocommit=True)
        except psycopg.OperationalError:
            if time.monotonic() > until:
                raise
            time.sleep(0.01)
