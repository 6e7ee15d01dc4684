"""What can happen to a pool: facts are past participles or nouns, wishes are verbs."""

from __future__ import annotations

from ghostd.values import Value


class Spawned(Value):
    """A fork succeeded: *pid* holds place *slot* with the code of *generation*."""

    pid: int
    slot: int
    generation: int


class SpawnFailed(Value):
    """A birth did not succeed for want of means, *reason* in words."""

    reason: str
    slot: int
    generation: int


class Stillborn(Value):
    """
    A birth did not succeed because the code of its generation does not load.

    Attributes:
        slot: the place it was meant for.
        generation: whose code it is.
        words: why, in one line.
        last_words: the traceback, or "".
    """

    slot: int
    generation: int
    words: str
    last_words: str = ""


class Beat(Value):
    """A spirit ticked *at* that time, by its own reading of the same clock."""

    pid: int
    at: float


class Farewell(Value):
    """A spirit said that it is finished: it leaves by itself."""

    pid: int
    at: float


class Tired(Value):
    """A spirit is to be replaced, *why* in words: it goes when its successor serves."""

    pid: int
    why: str


class Exited(Value):
    """
    The kernel says that a spirit is dead.

    Attributes:
        pid: whose death.
        words: how it ended: "exit code 1", "killed by SIGKILL (out of memory)".
        clean: it ended by itself with exit code 0.
        foreign: a signal that somebody sent ended it (KILL, TERM, INT), memory
            shortage excepted; such a death says nothing bad about the body.
        last_words: the traceback of its exception, or "".
    """

    pid: int
    words: str
    clean: bool = False
    foreign: bool = False
    last_words: str = ""


class Stop(Value):
    """Shut down: gracefully, or at once."""

    graceful: bool


class Grow(Value):
    """Want *count* more spirits."""

    count: int = 1


class Shrink(Value):
    """Want *count* fewer spirits, never less than none."""

    count: int = 1


class Resize(Value):
    """Want exactly this many spirits."""

    spirits: int


class Reload(Value):
    """Replace every spirit by one of the next generation, if that proves itself."""


class TimeLost(Value):
    """The manager did not run for *seconds* when it should have."""

    seconds: float


Event = (
    Spawned
    | SpawnFailed
    | Stillborn
    | Beat
    | Farewell
    | Tired
    | Exited
    | Stop
    | Grow
    | Shrink
    | Resize
    | Reload
    | TimeLost
)
