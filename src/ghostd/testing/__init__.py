"""
Tools for tests of daemons.

Real daemons on a leash, requests that are accounted for, a world without time, and a
referee.

Nothing in ghostd imports this package; it may import everything.
"""

from ghostd.settings import PoolSettings
from ghostd.testing.daemon import Daemon, DaemonError, Foreground
from ghostd.testing.load import (
    Death,
    Load,
    LoadError,
    Outcome,
    Report,
    Request,
    strike,
)
from ghostd.testing.referee import INVARIANTS, Referee, Violation
from ghostd.testing.world import (
    CRASHING,
    FAREWELL,
    FORKING,
    HUNG,
    LYING,
    MUTE,
    OBEDIENT,
    PEACE,
    RETURNING,
    SHORT,
    SLOW,
    STILLBORN,
    STUBBORN,
    TEMPERAMENTS,
    UNKILLABLE,
    FakeClock,
    Faults,
    Temperament,
    World,
    run_in_world,
)

__all__ = [
    "CRASHING",
    "FAREWELL",
    "FORKING",
    "HUNG",
    "INVARIANTS",
    "LYING",
    "MUTE",
    "OBEDIENT",
    "PEACE",
    "RETURNING",
    "SHORT",
    "SLOW",
    "STILLBORN",
    "STUBBORN",
    "TEMPERAMENTS",
    "UNKILLABLE",
    "Daemon",
    "DaemonError",
    "Death",
    "FakeClock",
    "Faults",
    "Foreground",
    "Load",
    "LoadError",
    "Outcome",
    "PoolSettings",
    "Referee",
    "Report",
    "Request",
    "Temperament",
    "Violation",
    "World",
    "run_in_world",
    "strike",
]
