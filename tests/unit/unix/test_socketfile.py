"""The name of a unix socket: whose it is, who may take it, when it goes."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.helpers import NOBODY, in_child

from ghostd.errors import ListenError
from ghostd.unix import doors
from ghostd.unix.socketfile import LONGEST, SocketFile

by_descriptor = pytest.mark.skipif(
    not doors.PROC, reason="a file is only known by its descriptor through /proc"
)


@contextmanager
def bound(path: Path, **more: object) -> Iterator[tuple[SocketFile, socket.socket]]:
    """Have a socket that listens under a name; the name goes with it."""
    file = SocketFile(str(path), **more)  # type: ignore[arg-type]  # of its signature
    with socket.socket(socket.AF_UNIX) as sock:
        file.bind(sock, 5)
        yield file, sock
        file.remove()


def refused(path: Path, **more: object) -> str:
    """Give the words with which a name is refused; nothing there is touched."""
    before = os.lstat(path) if os.path.lexists(path) else None
    beside = sorted(os.listdir(path.parent)) if path.parent.is_dir() else []
    with pytest.raises(ListenError) as caught, bound(path, **more):
        pass
    words = str(caught.value)
    assert words.startswith(f"cannot listen on unix:{path}: ")
    if before is not None:
        assert os.lstat(path) == before
    assert beside == (sorted(os.listdir(path.parent)) if beside else [])
    return words


def answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


def dead_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666, 0o000, 0o777])
def test_the_mode_is_exact_and_the_umask_is_left_alone(
    tmp_path: Path, umask: int, mode: int
) -> None:
    def body() -> tuple[int, int]:
        os.umask(umask)
        with bound(tmp_path / "s", mode=mode):
            return stat.S_IMODE(os.lstat(tmp_path / "s").st_mode), os.umask(0)

    assert in_child(body) == (mode, umask)


def test_it_never_has_another_mode_nor_its_name_before_it_listens(
    tmp_path: Path,
) -> None:
    """K6: at each moment the name is absent, or that of a socket which answers."""
    path = tmp_path / "s"
    seen = []

    class Watched(socket.socket):
        def bind(self, address: object) -> None:
            super().bind(address)  # type: ignore[arg-type]  # as it came
            assert isinstance(address, str)
            seen.append((oct(os.lstat(address).st_mode), path.exists()))

        def listen(self, backlog: int = 0) -> None:
            assert not path.exists()
            super().listen(backlog)

    with Watched(socket.AF_UNIX) as sock:
        file = SocketFile(str(path), 0o620)
        file.bind(sock, 5)
        assert seen == [("0o140620", False)]
        assert answers(path)
        assert os.listdir(tmp_path) == ["s"]
        file.remove()
        assert os.listdir(tmp_path) == []


@pytest.mark.root
def test_owner_and_group_are_given(tmp_path: Path) -> None:
    with bound(tmp_path / "s", uid=NOBODY, gid=4242):
        info = os.lstat(tmp_path / "s")
        assert (info.st_uid, info.st_gid) == (NOBODY, 4242)
    with bound(tmp_path / "s", gid=4242):
        assert os.lstat(tmp_path / "s").st_uid == 0


@pytest.mark.root
def test_owner_and_group_are_given_without_proc_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doors, "PROC", False)
    with bound(tmp_path / "s", uid=NOBODY):
        assert os.lstat(tmp_path / "s").st_uid == NOBODY
    assert "longer than 107 bytes" in refused(long_folder(tmp_path) / "s")


@by_descriptor
@pytest.mark.root
def test_only_root_can_give_it_away(open_folder: Path) -> None:
    open_folder.chmod(0o777)

    def body() -> str:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        return refused(open_folder / "s", uid=4242)

    assert in_child(body).endswith(
        "cannot be given to user 4242, group -1: Operation not permitted"
    )


# -- what is there already -----------------------------------------------------


def test_a_dead_one_is_replaced(tmp_path: Path) -> None:
    dead_socket(tmp_path / "s")
    with bound(tmp_path / "s"):
        assert answers(tmp_path / "s")
        assert os.listdir(tmp_path) == ["s"]


def test_a_living_one_is_in_use(tmp_path: Path) -> None:
    with bound(tmp_path / "s"):
        assert "already in use" in refused(tmp_path / "s")
        assert answers(tmp_path / "s")


def test_one_with_a_full_queue_lives_too(tmp_path: Path) -> None:
    clients = []
    with bound(tmp_path / "s"):
        while True:
            client = socket.socket(socket.AF_UNIX)
            clients.append(client)
            client.setblocking(False)
            if client.connect_ex(str(tmp_path / "s")) == errno.EAGAIN:
                break
        assert "already in use" in refused(tmp_path / "s")
    for client in clients:
        client.close()


def test_one_for_datagrams_lives_too(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "s"))
        assert "already in use" in refused(tmp_path / "s")


def test_what_is_no_socket_is_not_touched(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "link").symlink_to(victim)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    dead_socket(tmp_path / "dead")
    (tmp_path / "to_dead").symlink_to(tmp_path / "dead")

    for name in ("link", "dangling", "to_dead"):
        assert "is a symbolic link, which may have been" in refused(tmp_path / name)
    assert "is a regular file; it was not touched" in refused(victim)
    assert "is a folder" in refused(tmp_path / "folder")
    assert "is no socket" in refused(tmp_path / "fifo")
    assert victim.read_text() == "precious"


@pytest.mark.root
def test_a_dead_one_of_somebody_else_is_not_touched(tmp_path: Path) -> None:
    dead_socket(tmp_path / "s")
    os.chown(tmp_path / "s", NOBODY, NOBODY)

    assert f"a dead socket of user {NOBODY}; it" in refused(tmp_path / "s")
    with bound(tmp_path / "s", uid=NOBODY):
        pass  # its owner is the one that the new one will have
    dead_socket(tmp_path / "s")
    os.chown(tmp_path / "s", NOBODY, NOBODY)
    with bound(tmp_path / "s", trusted=frozenset({NOBODY})):
        pass


@pytest.mark.root
def test_one_that_cannot_be_asked_is_not_touched(open_folder: Path) -> None:
    dead_socket(open_folder / "s")
    os.chmod(open_folder / "s", 0o700)
    open_folder.chmod(0o777)

    def body() -> str:
        os.setuid(NOBODY)
        return refused(open_folder / "s")

    assert "cannot find out who listens there: Permission denied" in in_child(body)


def test_whoever_is_quicker_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two daemons find the same dead socket: one of them gets the name."""
    dead_socket(tmp_path / "s")
    link = os.link
    others = []

    def slow_link(*args: object, **more: object) -> None:
        monkeypatch.setattr(os, "link", link)
        other = socket.socket(socket.AF_UNIX)
        other.bind(str(tmp_path / "s"))
        other.listen()
        others.append(other)
        link(*args, **more)  # type: ignore[arg-type]  # as they came

    monkeypatch.setattr(os, "link", slow_link)
    with pytest.raises(ListenError, match="already in use"), bound(tmp_path / "s"):
        pass
    assert answers(tmp_path / "s")
    assert os.listdir(tmp_path) == ["s"]
    others[0].close()


def test_a_living_one_that_came_while_the_dead_one_was_moved_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead_socket(tmp_path / "s")
    os.utime(tmp_path / "s", (1, 1))  # the number of its inode may come back at once
    rename = os.rename
    others = []

    def slow_rename(*args: object, **more: object) -> None:
        monkeypatch.setattr(os, "rename", rename)
        os.unlink(tmp_path / "s")
        other = socket.socket(socket.AF_UNIX)
        other.bind(str(tmp_path / "s"))
        other.listen()
        others.append(other)
        rename(*args, **more)  # type: ignore[arg-type]  # as they came

    monkeypatch.setattr(os, "rename", slow_rename)
    with pytest.raises(ListenError, match="already in use"), bound(tmp_path / "s"):
        pass
    assert answers(tmp_path / "s")
    assert os.listdir(tmp_path) == ["s"]
    others[0].close()


def test_without_hard_links_it_is_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_args: object, **_more: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    dead_socket(tmp_path / "s")
    with bound(tmp_path / "s"):
        assert answers(tmp_path / "s")
        assert os.listdir(tmp_path) == ["s"]
    assert os.listdir(tmp_path) == []


# -- folders and long names ----------------------------------------------------


@pytest.mark.root
def test_root_needs_a_folder_in_which_nobody_else_can_swap_it(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    assert "anybody may change files in" in refused(tmp_path / "s")
    tmp_path.chmod(0o1777)
    with bound(tmp_path / "s"):
        pass


@by_descriptor
@pytest.mark.root
def test_another_file_in_its_place_is_not_given_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who owns the folder could put a link to a file of root's there."""
    secret = tmp_path / "secret"
    secret.write_text("root's")
    folder = tmp_path / "folder"
    folder.mkdir()
    listen = socket.socket.listen

    def swap(sock: socket.socket, backlog: int = 0) -> None:
        listen(sock, backlog)
        (draft,) = folder.iterdir()
        draft.unlink()
        os.link(secret, draft)

    monkeypatch.setattr(socket.socket, "listen", swap)
    with (
        pytest.raises(ListenError, match="another file was put in the place"),
        bound(folder / "s", uid=NOBODY),
    ):
        pass
    assert secret.stat().st_uid == 0


def long_folder(base: Path) -> Path:
    folder = base / ("long" * 40)
    folder.mkdir()
    return folder


@by_descriptor
def test_a_long_path_works_by_way_of_the_folder(tmp_path: Path) -> None:
    folder = long_folder(tmp_path)
    assert len(os.fsencode(folder / "s")) > LONGEST
    dead = SocketFile(str(folder / "s"))
    with socket.socket(socket.AF_UNIX) as sock:
        dead.bind(sock, 5)
    with bound(folder / "s"):
        fd = os.open(folder, os.O_PATH)
        assert answers(Path(f"/proc/self/fd/{fd}/s"))
        os.close(fd)
        assert "already in use" in refused(folder / "s")
    assert os.listdir(folder) == []


def test_a_name_that_nobody_could_connect_is_refused(tmp_path: Path) -> None:
    assert "longer than 107 bytes" in refused(tmp_path / ("n" * 108))


# -- the end -------------------------------------------------------------------


def test_it_is_removed_only_by_who_made_it_and_only_if_it_is_still_ours(
    tmp_path: Path,
) -> None:
    path = tmp_path / "s"
    with bound(path) as (file, _):
        in_child(file.remove)
        assert answers(path)

        path.unlink()
        file.remove()  # gone: no error
    with bound(path):
        path.unlink()
        path.write_text("somebody's")
    assert path.read_text() == "somebody's"
    path.unlink()
    with bound(path) as (file, sock):
        path.unlink()
        with bound(path):
            file.remove()
            assert answers(path)
        file.remove()
        assert sock.fileno() >= 0


def test_a_folder_that_is_closed_by_then_keeps_it(open_folder: Path) -> None:
    folder = open_folder / "closed"
    folder.mkdir()

    def body() -> list[str]:
        with bound(folder / "s"):
            folder.chmod(0o555)
            if os.geteuid() == 0:
                os.setuid(NOBODY)
        return os.listdir(folder)

    assert in_child(body) == ["s"]
    folder.chmod(0o755)
