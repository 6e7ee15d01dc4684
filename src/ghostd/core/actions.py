"""What a pool can want done. Imperatives; the shell performs them in order."""

from __future__ import annotations

from ghostd.typed import Any
from ghostd.values import Value

DEBUG, INFO, WARN, ERROR, FATAL = "debug", "info", "warn", "error", "fatal"


class Spawn(Value):
    """
    Fork a spirit for place *slot*, and tell `Spawned`, `SpawnFailed` or `Stillborn`.

    The answer may come in any later turn; until then the place counts as taken.
    """

    slot: int
    generation: int


class Quit(Value):
    """Ask a spirit to leave."""

    pid: int


class Kill(Value):
    """End a spirit at once."""

    pid: int


class Call(Value):
    """Call a hook of the user."""

    hook: str
    args: tuple[Any, ...] = ()


class Say(Value):
    """
    Write a log line.

    Attributes:
        level: one of the constants of this module.
        event: the fixed name of the fact, for machines ("spirit.died").
        text: the line, for people.
        fields: what machines read beside the event's name.
    """

    level: str
    event: str
    text: str
    fields: dict[str, Any]

    def __hash__(self) -> int:
        """Leave the fields out: a dict has no hash."""
        return hash((self.level, self.event, self.text))


class Ready(Value):
    """Tell whoever started the daemon that it is up."""


class Reloaded(Value):
    """
    Tell whoever asked how a reload ended.

    Attributes:
        generation: the one that it was about.
        reason: why it did not come to be, "" when every spirit is of it.
    """

    generation: int
    reason: str = ""


Action = Spawn | Quit | Kill | Call | Say | Ready | Reloaded
