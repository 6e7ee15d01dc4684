"""
ghostd: pre-forking daemons for Python.

A manager forks spirits, watches their heartbeats, replaces the dead and the hung,
and stops or reloads without losing work. Start reading at `Ghost` and `Prefork`.
"""

from ghostd.errors import (
    AlreadyRunning,
    GhostError,
    Interrupted,
    ListenError,
    LogError,
    PidfileError,
    PrivilegeError,
    SettingsError,
    StartError,
)
from ghostd.ghost import Ghost
from ghostd.prefork import Prefork

__version__ = "0.1.0"

__all__ = [
    "AlreadyRunning",
    "Ghost",
    "GhostError",
    "Interrupted",
    "ListenError",
    "LogError",
    "PidfileError",
    "Prefork",
    "PrivilegeError",
    "SettingsError",
    "StartError",
]
