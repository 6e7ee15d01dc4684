"""
Rights: names to numbers before the fork, then dropped so that they cannot return.

The order is groups, gid, uid. Each step is read back, and the attempt to become
root again must fail: a forgotten `setgroups` or an unchecked `setuid` (it can fail,
with EAGAIN) has left daemons root for decades.
"""

from __future__ import annotations

import os

from ghostd.errors import PrivilegeError
from ghostd.values import Value


class Identity(Value):
    """
    Who to become.

    Attributes:
        uid: user id.
        gid: group id.
        groups: supplementary group ids.
    """

    uid: int
    gid: int
    groups: tuple[int, ...]


def user_id(user: str | int) -> int:
    """
    Turn the name of a user into its number.

    Raises:
        PrivilegeError: no such user.
    """
    import pwd

    if isinstance(user, int):
        return user
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        raise PrivilegeError(f"user is {user!r}, and no user has that name") from None


def group_id(group: str | int) -> int:
    """
    Turn the name of a group into its number.

    Raises:
        PrivilegeError: no such group.
    """
    import grp

    if isinstance(group, int):
        return group
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise PrivilegeError(
            f"group is {group!r}, and no group has that name"
        ) from None


def resolve(user: str | int | None, group: str | int | None) -> Identity | None:
    """
    Turn names into numbers; None when nothing was asked.

    *user* alone takes the user's own group and supplementary groups; *group* alone
    keeps the user; both: the user's supplementary groups with that group.

    Raises:
        PrivilegeError: no such user or group.
    """
    import pwd

    if user is None and group is None:
        return None
    gid = None if group is None else group_id(group)
    if user is None:
        return Identity(os.geteuid(), gid or 0, (gid or 0,))
    try:
        entry = pwd.getpwuid(user) if isinstance(user, int) else pwd.getpwnam(user)
    except KeyError:
        if isinstance(user, str):
            raise PrivilegeError(
                f"user is {user!r}, and no user has that name"
            ) from None
        if gid is None:
            raise PrivilegeError(
                f"user is {user}, which has no entry in the user database: "
                "give its group too"
            ) from None
        return Identity(user, gid, (gid,))
    gid = entry.pw_gid if gid is None else gid
    return Identity(entry.pw_uid, gid, tuple(os.getgrouplist(entry.pw_name, gid)))


def check(identity: Identity | None) -> None:
    """
    Refuse an identity that this process cannot take.

    Raises:
        PrivilegeError: only root can become somebody else.
    """
    if identity is None or os.geteuid() == 0:
        return
    if (identity.uid, identity.gid) != (os.geteuid(), os.getegid()):
        raise PrivilegeError(
            f"user {identity.uid}, group {identity.gid}: only root can become "
            f"somebody else, and this is user {os.geteuid()}"
        )


def _set_all(kind: str, number: int) -> None:
    """Set the real, effective and saved id; where there is no setres*, root's set*."""
    if hasattr(os, f"setres{kind}"):
        getattr(os, f"setres{kind}")(number, number, number)
    else:
        getattr(os, f"set{kind}")(number)


def _read_all(kind: str) -> set[int]:
    """Read back every id of a kind that the system shows."""
    if hasattr(os, f"getres{kind}"):
        return set(getattr(os, f"getres{kind}")())
    return {getattr(os, f"get{kind}")(), getattr(os, f"gete{kind}")()}


def become_groups(gid: int, groups: tuple[int, ...]) -> None:
    """
    Take over groups for good.

    Raises:
        PrivilegeError: the kernel refused, or did something else.
    """
    try:
        os.setgroups(groups)
        _set_all("gid", gid)
    except OSError as error:
        raise PrivilegeError(f"cannot become group {gid}: {error}") from error
    if _read_all("gid") != {gid} or set(os.getgroups()) != set(groups):
        raise PrivilegeError(f"group {gid} was set, but reads back as another")


def become_user(uid: int) -> None:
    """
    Take over a user for good.

    Raises:
        PrivilegeError: the kernel refused, or root could be had back.
    """
    try:
        _set_all("uid", uid)
    except OSError as error:
        raise PrivilegeError(f"cannot become user {uid}: {error}") from error
    if _read_all("uid") != {uid}:
        raise PrivilegeError(f"user {uid} was set, but reads back as another")
    if uid != 0:
        try:
            os.setuid(0)
        except OSError:
            return
        raise PrivilegeError(f"user {uid} was set, but root could be had back")


def drop(identity: Identity | None) -> None:
    """
    Become *identity* for good; nothing to do for None, or for who it is already.

    Raises:
        PrivilegeError: it did not work; the process must end now.
    """
    check(identity)
    if identity is None or os.geteuid() != 0:
        return
    become_groups(identity.gid, identity.groups)
    become_user(identity.uid)
