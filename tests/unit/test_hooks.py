"""hooks.call: whatever a hook raises, it comes back."""

from __future__ import annotations

import io
import logging

import pytest

from ghostd import hooks
from ghostd.errors import Interrupted
from ghostd.logs import Log
from ghostd.targets import StreamTarget


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.fixture
def log() -> tuple[Log, io.StringIO]:
    stream = io.StringIO()
    logger = logging.Logger("ghostd.test")  # noqa: LOG001
    logger.addHandler(StreamTarget(stream))
    return Log(logger), stream


def test_a_good_hook_says_nothing(log: tuple[Log, io.StringIO]) -> None:
    told: list[object] = []
    assert hooks.call(log[0], 5.0, "spawn", told.append, 7)
    assert told == [7]
    assert log[1].getvalue() == ""


def recurse() -> None:
    recurse()


def raising(error: BaseException) -> object:
    def hook() -> None:
        raise error

    return hook


@pytest.mark.parametrize(
    "error",
    [
        ValueError("so it is"),
        SystemExit(3),
        KeyboardInterrupt(),
        GeneratorExit(),
        BaseException("base"),
        Unprintable(),
        MemoryError(),
        Interrupted(0),
        BaseExceptionGroup("many", [KeyboardInterrupt(), ValueError("x")]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_a_hook_raises_is_logged(
    log: tuple[Log, io.StringIO], error: BaseException
) -> None:
    assert not hooks.call(log[0], 5.0, "reap", raising(error))  # type: ignore[arg-type]
    text = log[1].getvalue()
    assert f"[error] Hook reap failed: {type(error).__name__}" in text
    assert "Traceback" in text


def test_a_hook_without_an_end_is_logged(log: tuple[Log, io.StringIO]) -> None:
    assert not hooks.call(log[0], 5.0, "reap", recurse)
    assert "RecursionError" in log[1].getvalue()


def test_a_slow_hook_is_said(
    log: tuple[Log, io.StringIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([10.0, 17.5])
    monkeypatch.setattr(hooks.time, "monotonic", lambda: next(times))
    assert hooks.call(log[0], 5.0, "waitup", lambda: None)
    assert "[warn] Hook waitup held the manager up for 7.5 seconds" in log[1].getvalue()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError("x"), "ValueError: x"),
        (ValueError(), "ValueError"),
        (Unprintable(), "Unprintable"),
        (KeyError("k"), "KeyError: 'k'"),
    ],
)
def test_an_exception_in_one_line(error: BaseException, words: str) -> None:
    assert hooks.describe(error) == words
