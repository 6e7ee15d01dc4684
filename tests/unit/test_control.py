"""The commands without a daemon: words, signals, codes."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from ghostd import Ghost, GhostError, Prefork, control


@pytest.fixture
def ghost(tmp_path: Path) -> Ghost:
    return Prefork(
        name="unit",
        pidfile=tmp_path / "d.pid",
        logfile=tmp_path / "d.log",
        spirit=lambda _g: None,
    )


@pytest.mark.parametrize(
    ("given", "number"),
    [
        (None, signal.SIGHUP),
        (0, None),
        ("0", None),
        ("HUP", signal.SIGHUP),
        ("hup", signal.SIGHUP),
        ("SIGUSR2", signal.SIGUSR2),
        (12, signal.SIGUSR2),
        ("12", signal.SIGUSR2),
        (signal.SIGUSR1, signal.SIGUSR1),
    ],
)
def test_signals_by_any_name(given: object, number: object) -> None:
    assert control.signal_number("signal", given) == number  # type: ignore[arg-type]


@pytest.mark.parametrize("given", ["FOO", "", 99, -1, "1.5", True, "SIGSIGHUP", "DFL"])
def test_no_signals(given: object) -> None:
    with pytest.raises(GhostError, match="allowed: a signal's name or number, or 0"):
        control.signal_number("signal", given)  # type: ignore[arg-type]


def test_every_command_of_the_document_is_there() -> None:
    words = {"start", "stop", "status", "restart", "reload", "run"}
    assert set(control.COMMANDS) == words


@pytest.mark.parametrize("word", ["", "foo", "START", "start "])
def test_unknown_words(
    ghost: Ghost, capsys: pytest.CaptureFixture[str], word: str
) -> None:
    assert ghost.ctrl(word) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Command incorrect\n")


def test_the_word_is_taken_from_the_command_line(
    ghost: Ghost, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["x", "status"])
    assert ghost.ctrl() == 3
    assert capsys.readouterr().out == "Not running\n"
    monkeypatch.setattr(sys, "argv", ["x"])
    assert ghost.ctrl() == 1


def test_status_codes(ghost: Ghost, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(ghost.pidfile)
    assert ghost.ctrl("status") == 3
    path.write_text("1\n")
    assert ghost.ctrl("status") == 1
    assert capsys.readouterr().out == "Not running\nNot running\n"
    path.unlink()
    path.mkdir()
    assert ghost.ctrl("status") == 4
    out, err = capsys.readouterr()
    assert out == ""
    assert "not a regular file" in err


def test_stop_where_none_runs(ghost: Ghost, capsys: pytest.CaptureFixture[str]) -> None:
    Path(ghost.pidfile).write_text("1\n")
    assert ghost.ctrl("stop") == 0
    assert capsys.readouterr().out == "Not running\n"
    assert not Path(ghost.pidfile).exists()
    assert ghost.stop() == 0


def test_start_is_refused_before_any_fork(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_fork() -> int:
        raise AssertionError("forked")

    monkeypatch.setattr("os.fork", no_fork)
    for kind in (Ghost, Prefork):
        made = kind(name="unit", pidfile=tmp_path / "d.pid")
        for word in ("start", "restart", "reload", "run"):
            assert made.ctrl(word) == 1
            assert "override" in capsys.readouterr().err
    made = Prefork(name="unit", spirit=lambda _g: None, user="no-such-user")
    assert made.ctrl("start") == 1
    assert "no-such-user" in capsys.readouterr().err


def test_preinit_that_raises_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def preinit(_ghost: Ghost) -> None:
        raise OSError("no port")

    made = Prefork(
        name="unit",
        pidfile=tmp_path / "d.pid",
        spirit=lambda _g: None,
        preinit=preinit,
    )
    for word in ("start", "run"):
        assert made.ctrl(word) == 1
        err = capsys.readouterr().err
        assert "OSError: no port" in err
        assert "unit did not start" in err


def test_a_closed_standard_error_keeps_the_exit_code(
    ghost: Ghost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    assert ghost.ctrl("foo") == 1
