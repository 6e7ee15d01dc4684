"""What asynchronous bodies have in common, without a loop and without a process."""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine, Generator
from types import coroutine
from typing import Any

import pytest

from ghostd import GhostError, Prefork
from ghostd.loops import CLEANUP, Awaiting, Ticks, check, cleanup_time
from ghostd.settings import PoolSettings
from ghostd.spirit import Draining, Outside


@coroutine
def pausing(word: str) -> Generator[str, str, str]:
    return (yield word)


def result_of(body: Coroutine[Any, Any, Any]) -> Any:
    with pytest.raises(StopIteration) as ended:
        body.send(None)
    return ended.value.value


@pytest.mark.parametrize(
    ("graceful", "seconds"), [(0, 0), (1, 0.25), (20, 5), (120, CLEANUP)]
)
def test_a_quarter_of_the_graceful_time_is_for_cleaning_up(
    graceful: float, seconds: float
) -> None:
    assert cleanup_time(graceful) == seconds


async def three() -> bool:
    return (await pausing("pause")) == "3"  # type: ignore[arg-type]  # a generator


def awaiting(forgotten: Callable[[], None] = pytest.fail) -> Awaiting:
    return Awaiting(three(), forgotten)


def test_a_wait_is_awaited_like_any_coroutine() -> None:
    async def body() -> bool:
        return await awaiting()

    running = body()
    assert running.send(None) == "pause"
    with pytest.raises(StopIteration) as ended:
        running.send("3")
    assert ended.value.value is True


def test_a_wait_can_be_driven_and_ended_like_a_task() -> None:
    wait = awaiting()
    assert isinstance(wait, Coroutine)
    assert wait.send(None) == "pause"
    with pytest.raises(KeyError):
        wait.throw(KeyError("oh"))

    wait = awaiting()
    wait.send(None)
    given = KeyError("oh")
    with pytest.raises(KeyError) as raised:
        wait.throw(KeyError, given, None)
    assert raised.value is given

    awaiting().close()


def test_a_wait_that_is_not_awaited_is_no_truth() -> None:
    """A coroutine would be true, and the loop around it would spin."""
    with pytest.raises(TypeError, match=r"await self\.wait"):
        bool(awaiting())


def test_a_wait_that_nobody_awaits_is_told_of() -> None:
    told: list[bool] = []

    awaiting(lambda: told.append(True))

    assert told == [True]


class Body:
    """Ticks and waits; time passes by what it is told."""

    def __init__(self, *answers: bool) -> None:
        self.answers = list(answers)
        self.waits: list[float] = []

    def tick(self, finished: bool = False) -> bool:
        assert not finished
        return self.answers.pop(0)

    async def wait(self, seconds: float) -> bool:
        self.waits.append(seconds)
        return self.answers.pop(0)


def test_turns_are_numbered_and_end_with_ok() -> None:
    body = Body(True, True, True, False)

    async def go() -> list[int]:
        return [turn async for turn in Ticks(body, 100.0)]

    assert result_of(go()) == [0, 1, 2]
    assert body.waits[0] == pytest.approx(100, abs=1)
    # No time has passed in between, so it is two turns away.
    assert body.waits[1] == pytest.approx(200, abs=1)


def test_a_body_that_is_not_ok_has_no_turn() -> None:
    async def go() -> list[int]:
        return [turn async for turn in Ticks(Body(False), 1.0)]

    assert result_of(go()) == []


def test_missed_turns_are_not_made_up_for(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 5.5, 5.5, 5.5])
    monkeypatch.setattr("ghostd.loops.monotonic", lambda: next(now))
    body = Body(True, True, True, False)

    async def go() -> list[int]:
        return [turn async for turn in Ticks(body, 1.0)]

    assert result_of(go()) == [0, 1, 2]
    assert body.waits == [0.0, 1.0, 2.0]


def test_threads_run_plain_bodies_only() -> None:
    with pytest.raises(GhostError, match="threads is 3"):
        check(PoolSettings(threads=3))


@pytest.mark.parametrize(
    ("loop", "missing"), [("uvloop", "uvloop"), ("trio", "trio"), ("trio", "anyio")]
)
def test_a_loop_that_is_not_installed_is_refused_with_its_extra(
    loop: str, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)

    with pytest.raises(GhostError, match=f"{missing} cannot be imported") as refused:
        check(PoolSettings(loop=loop))

    assert refused.value.__notes__ == [
        f'Install the extra: pip install "ghostd[{loop}]"'
    ]


@pytest.mark.parametrize("loop", ["asyncio", "uvloop", "trio", dict])
def test_the_check_loads_no_loop(loop: Any) -> None:
    before = set(sys.modules)
    check(PoolSettings(loop=loop))

    loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
    assert not loaded & {"uvloop", "trio", "anyio"}


def test_what_is_no_spirit_does_not_drain() -> None:
    ghost = Prefork(spirit=print)

    assert not ghost.draining
    assert repr(ghost.draining) == "<Draining: False>"
    assert ghost.lag == 0
    assert isinstance(ghost.draining, Draining)
    with pytest.raises(RuntimeError, match="no spirit"):
        result_of(Outside().drained())
