"""The errors of ghostd: each says what, with which value, and what to do."""

from __future__ import annotations


class GhostError(Exception):
    """
    Any error that ghostd itself raises.

    Attributes:
        needs_frames: where it was raised is part of the story.
    """

    needs_frames: bool = True


class SettingsError(GhostError, ValueError):
    """A keyword is unknown, or its value is not allowed."""


class AlreadyRunning(GhostError):
    """
    A living daemon holds the pidfile.

    Attributes:
        pid: its process id, or 0 where the file does not tell.
    """

    def __init__(self, message: str, pid: int = 0) -> None:
        """Keep the pid beside the message."""
        super().__init__(message)
        self.pid = pid


class PidfileError(GhostError):
    """The pidfile cannot be read, written or trusted."""


class PrivilegeError(GhostError):
    """A user or group is unknown, or the rights could not be dropped for good."""


class LogError(GhostError):
    """The log cannot be opened, or must not be."""


class ListenError(GhostError):
    """An address cannot be listened on; the message names it."""


class StartError(GhostError):
    """The daemon did not come up; the message is the whole story."""


class Interrupted(SystemExit):
    """
    Raised in the body of a plain Ghost when TERM or INT insists.

    A `SystemExit`, so that ``except Exception`` lets it pass and ``finally`` runs.
    """
