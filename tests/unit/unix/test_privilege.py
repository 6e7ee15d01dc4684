"""Rights: names to numbers, and no way back to root."""

from __future__ import annotations

import grp
import os
import pwd

import pytest
from tests.helpers import NOBODY, in_child

from ghostd.errors import PrivilegeError
from ghostd.unix import privilege
from ghostd.unix.privilege import Identity


def status() -> dict[str, list[str]]:
    """Read who we are from the kernel itself."""
    with open("/proc/self/status") as file:
        pairs = (line.split(":", 1) for line in file)
        return {name: rest.split() for name, rest in pairs}


def test_nothing_asked_is_nobody_to_become() -> None:
    assert privilege.resolve(None, None) is None
    privilege.check(None)
    privilege.drop(None)


def test_a_user_alone_brings_its_own_groups() -> None:
    entry = pwd.getpwnam("root")
    found = privilege.resolve("root", None)
    groups = tuple(os.getgrouplist("root", entry.pw_gid))
    assert found == Identity(0, entry.pw_gid, groups)
    assert privilege.resolve(0, None) == found


def test_a_user_with_a_group() -> None:
    group = grp.getgrgid(pwd.getpwnam("nobody").pw_gid)
    found = privilege.resolve("nobody", "root")
    assert found is not None
    assert (found.uid, found.gid) == (pwd.getpwnam("nobody").pw_uid, 0)
    assert 0 in found.groups
    assert privilege.resolve("nobody", None) == privilege.resolve(
        "nobody", group.gr_name
    )


def test_a_group_alone_keeps_the_user() -> None:
    assert privilege.resolve(None, 7) == Identity(os.geteuid(), 7, (7,))
    assert privilege.resolve(None, 0) == Identity(os.geteuid(), 0, (0,))


def test_numbers_without_a_name() -> None:
    assert privilege.resolve(54321, 12345) == Identity(54321, 12345, (12345,))
    with pytest.raises(PrivilegeError, match=r"54321.*give its group"):
        privilege.resolve(54321, None)


@pytest.mark.parametrize(
    ("user", "group", "word"),
    [("no-such-user", None, "user"), (None, "no-such-group", "group")],
)
def test_unknown_names_are_refused(
    user: str | None, group: str | None, word: str
) -> None:
    with pytest.raises(PrivilegeError, match=rf"{word} is 'no-such-{word}'"):
        privilege.resolve(user, group)


@pytest.mark.root
def test_only_root_can_become_somebody_else() -> None:
    def ask() -> list[str]:
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        mine = Identity(NOBODY, NOBODY, ())
        privilege.check(mine)
        privilege.drop(mine)
        said = []
        for identity in (Identity(0, 0, (0,)), Identity(NOBODY, 7, (7,))):
            with pytest.raises(PrivilegeError) as caught:
                privilege.check(identity)
            said.append(str(caught.value))
        return said

    for said in in_child(ask):
        assert "only root can become somebody else" in said
        assert str(NOBODY) in said


@pytest.mark.root
def test_root_is_gone_for_good() -> None:
    def become() -> dict[str, list[str]]:
        os.setgroups([0, 1, 2])
        privilege.drop(Identity(NOBODY, 54321, (54321, 7)))
        for call in (lambda: os.setuid(0), lambda: os.setgid(0), lambda: os.seteuid(0)):
            with pytest.raises(PermissionError):
                call()
        with pytest.raises(PermissionError):
            os.setgroups([0])
        return status()

    found = in_child(become)
    assert found["Uid"] == [str(NOBODY)] * 4
    assert found["Gid"] == ["54321"] * 4
    assert found["Groups"] == ["7", "54321"]
    assert found["CapEff"] == ["0" * 16]
    assert found["CapPrm"] == ["0" * 16]


@pytest.mark.root
def test_root_may_stay_root_with_another_group() -> None:
    def become() -> dict[str, list[str]]:
        privilege.drop(privilege.resolve(None, 7))
        return status()

    found = in_child(become)
    assert (found["Uid"], found["Gid"]) == (["0"] * 4, ["7"] * 4)
    assert found["Groups"] == ["7"]


@pytest.mark.root
@pytest.mark.parametrize("call", ["setresuid", "setresgid", "setgroups"])
def test_what_reads_back_as_another_is_an_error(
    monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """A kernel that says yes and does nothing, as seen with RLIMIT_NPROC and setuid."""
    monkeypatch.setattr(os, call, lambda *_: None)

    def become() -> str:
        os.setgroups([1])
        with pytest.raises(PrivilegeError) as caught:
            privilege.drop(Identity(NOBODY, 7, (7,)))
        return str(caught.value)

    assert "reads back as another" in in_child(become)


@pytest.mark.root
@pytest.mark.parametrize("call", ["setresuid", "setresgid", "setgroups"])
def test_a_refusal_of_the_kernel_is_an_error(
    monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def refuse(*_: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, call, refuse)

    def become() -> str:
        with pytest.raises(PrivilegeError) as caught:
            privilege.drop(Identity(NOBODY, 7, (7,)))
        return str(caught.value)

    assert "cannot become" in in_child(become)


@pytest.mark.root
def test_root_that_could_be_had_back_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A saved uid of 0 that the kernel does not show: where there is no setresuid."""
    monkeypatch.delattr(os, "setresuid")
    monkeypatch.delattr(os, "getresuid")
    monkeypatch.setattr(os, "setuid", os.seteuid)

    def become() -> str:
        monkeypatch.setattr(os, "getuid", os.geteuid)
        with pytest.raises(PrivilegeError) as caught:
            privilege.become_user(NOBODY)
        return str(caught.value)

    assert "could be had back" in in_child(become)


@pytest.mark.root
def test_without_setres_calls_root_is_gone_too(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("setresuid", "setresgid", "getresuid", "getresgid"):
        monkeypatch.delattr(os, name)

    def become() -> list[list[str]]:
        privilege.drop(Identity(NOBODY, 7, (7,)))
        found = status()
        return [found["Uid"], found["Gid"]]

    assert in_child(become) == [[str(NOBODY)] * 4, ["7"] * 4]
