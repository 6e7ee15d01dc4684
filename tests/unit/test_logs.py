"""The log: its lines, its levels, its losses, and whoever else wants to be the log."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import select
import signal
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers import NOBODY, in_child

from ghostd import Ghost, LogError, settings, targets
from ghostd.logs import Log, open_log

LINE = re.compile(
    r"\[(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)\.(\d{5})\] \[(\d+)\] \[([a-z]+)\] (.*)"
)
LEVELS = list(settings.LEVELS)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.log"


def opened(**keywords: Any) -> Log:
    """Open a log as a ghost does."""
    return alone(open_log(Ghost(name="unit", **keywords).settings))


def alone(log: Log) -> Log:
    """Send the test runner away, which listens to all loggers that do not propagate."""
    for handler in list(log.logger.handlers):
        if not isinstance(handler, targets.Target):
            log.logger.removeHandler(handler)
    return log


@pytest.fixture
def log(path: Path) -> Iterator[Log]:
    log = opened(logfile=path, loglevel="trace")
    yield log
    log.close()


# -- lines ---------------------------------------------------------------------------


def test_a_line(log: Log, path: Path) -> None:
    before = time.time()
    log.info("hello")
    stamp, fraction, pid, level, text = LINE.fullmatch(path.read_text()[:-1]).groups()  # type: ignore[union-attr]
    then = time.mktime(time.strptime(stamp, "%Y-%m-%d %H:%M:%S")) + int(fraction) / 1e5
    assert before - 0.001 <= then <= time.time()
    assert (pid, level, text) == (str(os.getpid()), "info", "hello")


def test_every_level_is_a_method(log: Log, path: Path) -> None:
    for level in LEVELS:
        getattr(log, level)("at %s", level)
        log.log(level, "by name")
    said = [LINE.fullmatch(line)[4] for line in path.read_text().splitlines()]  # type: ignore[index]
    assert said == [level for level in LEVELS for _ in range(2)]


@pytest.mark.parametrize(
    ("alias", "level"), [("warning", "warn"), ("crit", "fatal"), ("critical", "fatal")]
)
def test_aliases(log: Log, path: Path, alias: str, level: str) -> None:
    getattr(log, alias)("x")
    assert f"[{level}] x" in path.read_text()


@pytest.mark.parametrize("lowest", LEVELS)
def test_nothing_below_the_level_is_written_or_even_formatted(
    path: Path, lowest: str
) -> None:
    class Costly:
        asked = 0

        def __str__(self) -> str:
            Costly.asked += 1
            return "costly"

    log = opened(logfile=path, loglevel=lowest)
    for level in LEVELS:
        getattr(log, level)("a %s thing", Costly())
    log.close()
    written = LEVELS[LEVELS.index(lowest) :]
    assert [LINE.fullmatch(x)[4] for x in path.read_text().splitlines()] == written  # type: ignore[index]
    assert Costly.asked == len(written)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("x",), "x"),
        (("x %s", 1), "x 1"),
        (("%d of %d", 1, 2), "1 of 2"),
        (("%(a)s", {"a": 1}), "1"),
        (("all", "cool"), "all cool"),
        (("all", 1, None), "all 1 None"),
        (("100%",), "100%"),
        (("100%", "sure"), "100% sure"),
        (("%s %s", 1), "%s %s 1"),
        (("%d", "x"), "%d x"),
        ((42,), "42"),
        ((ValueError("v"),), "v"),
        (("",), ""),
        ((None, "x"), "None x"),
    ],
)
def test_words_are_formatted_or_joined(
    log: Log, path: Path, words: tuple[Any, ...], text: str
) -> None:
    log.info(*words)
    assert LINE.fullmatch(path.read_text()[:-1])[5] == text  # type: ignore[index]


def test_the_message_is_put_together_in_time(log: Log, path: Path) -> None:
    things = ["one"]
    log.info("%s", things)
    things.append("two")
    assert "two" not in path.read_text()


def test_exceptions_bring_their_traceback(log: Log, path: Path) -> None:
    try:
        1 / 0  # noqa: B018
    except ZeroDivisionError:
        log.exception("it %s", "broke")
        log.warning("again", exc_info=True)
        log.info("where", stack_info=True)
    text = path.read_text()
    assert text.count("ZeroDivisionError") == 2
    assert "[error] it broke\n    Traceback" in text
    assert "Stack (most recent call last)" in text


@pytest.mark.parametrize(
    "evil",
    [
        "x\n[2024-01-20 21:50:45.12345] [1] [info] Spirit 1 started",
        "x\r[2024]",
        "x\x1b[2J\x1b]0;title\x07",
        "x\x85y\u2028z\u2029w",
        "nul \0 byte",
        "back\b\bspace",
        "\x9b31m",
        "lone \ud800 surrogate",
        "\N{SNOWMAN} ä",
    ],
    ids=ascii,
)
def test_no_text_can_look_like_another_line(log: Log, path: Path, evil: str) -> None:
    """F21."""
    log.info(evil)
    log.info("%s", evil)
    log.info("a", evil)  # noqa: PLE1205
    raw = path.read_bytes()
    text = raw.decode("utf-8")
    starts = [line for line in text.split("\n") if line.startswith("[")]
    assert len(starts) == 3
    assert all(LINE.fullmatch(line) for line in starts)
    rest = [line for line in text.split("\n") if not line.startswith("[")]
    assert all(line.startswith("    ") or line == "" for line in rest)
    assert not re.search(rb"[\x00-\x08\x0b-\x1f\x7f]", raw)
    assert len(text.splitlines()) == text.count("\n")


@given(st.text())
def test_any_text_is_one_record(text: str) -> None:
    stream = io.StringIO()
    logger = logging.Logger("x")  # noqa: LOG001
    logger.addHandler(targets.StreamTarget(stream))
    Log(logger).info(text)
    written = stream.getvalue()
    assert sum(line.startswith("[") for line in written.split("\n")) == 1
    assert written.endswith("\n")
    assert len(written.splitlines()) == written.count("\n")


def test_long_lines_of_many_processes_never_mix(path: Path) -> None:
    """F18: one write each, of any length."""
    log = opened(logfile=path)
    pids = []
    for number in range(4):
        pid = os.fork()
        if pid == 0:
            for _ in range(50):
                log.info(str(number) * 20_000)
            os._exit(0)
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)
    log.close()
    lines = path.read_text().splitlines()
    assert len(lines) == 200
    for line in lines:
        text = LINE.fullmatch(line)[5]  # type: ignore[index]
        assert len(text) == 20_000
        assert len(set(text)) == 1


def test_the_pid_is_that_of_the_process_that_writes(log: Log, path: Path) -> None:
    in_child(lambda: log.info("from the child"))
    assert f"[{os.getpid()}]" not in path.read_text()


# -- losses --------------------------------------------------------------------------


def test_what_a_full_disk_did_not_take_is_counted(path: Path) -> None:
    """F14: silence is not an option, and neither is an exception."""
    os.symlink("/dev/full", path)
    log = opened(logfile=path)
    for number in range(5):
        log.info("lost %d", number)
    path.unlink()
    log.info("written")
    log.info("and again")
    log.close()
    lines = [line for line in path.read_text().splitlines() if line]
    assert [LINE.fullmatch(line)[5] for line in lines] == [  # type: ignore[index]
        "5 log lines were lost: the log could not be written",
        "written",
        "and again",
    ]
    assert "[warn]" in lines[0]


def test_a_message_that_cannot_be_had_is_a_lost_line(log: Log, path: Path) -> None:
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError("no")

    alone(log).info(Broken())
    log.info("x %s", Broken())
    log.info("fine")
    assert "2 log lines were lost" in path.read_text()
    assert path.read_text().endswith("fine\n")


def test_a_closed_stream_costs_lines_only() -> None:
    stream = io.StringIO()
    log = opened(loghandle=stream)
    stream.close()
    log.info("to nobody")
    log.close()


# -- files ---------------------------------------------------------------------------


def test_it_is_appended_to(path: Path) -> None:
    path.write_text("old\n")
    log = opened(logfile=path)
    log.info("new")
    log.close()
    assert path.read_text().startswith("old\n[")


@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
def test_a_new_log_is_not_for_everybody(path: Path, umask: int) -> None:
    def make() -> int:
        os.umask(umask)
        opened(logfile=path).close()
        return stat.S_IMODE(path.stat().st_mode)

    assert in_child(make) == 0o640 & ~umask


@pytest.mark.parametrize("how", ["moved", "removed", "moved and asked", "truncated"])
def test_logrotate(log: Log, path: Path, how: str) -> None:
    """F16: with and without a signal; copytruncate is safe with O_APPEND."""
    log.info("before")
    old = path.with_suffix(".1")
    if how == "truncated":
        old.write_text(path.read_text())
        os.truncate(path, 0)
    elif how == "removed":
        path.unlink()
    else:
        path.rename(old)
    if how == "moved and asked":
        log.reopen()
    log.info("after")
    assert "after" in path.read_text()
    assert "before" not in path.read_text()
    assert "\0" not in path.read_text()
    if how != "removed":
        assert "before" in old.read_text()
        assert "after" not in old.read_text()


def test_a_line_after_the_close_goes_to_the_log_and_nowhere_else(
    log: Log, path: Path
) -> None:
    """`logging` closes handlers at exit, before a script's own atexit functions."""
    (target,) = (h for h in log.logger.handlers if isinstance(h, targets.Target))
    target.close()
    with open(path.with_name("another"), "w") as other:  # most likely the same number
        log.info("late")
        target.close()
        target.close()
    assert path.read_text().endswith("late\n")
    assert path.with_name("another").read_text() == ""
    assert other.closed


def test_every_process_follows_by_itself(log: Log, path: Path) -> None:
    path.rename(path.with_suffix(".1"))
    in_child(lambda: log.info("the child's"))
    log.info("the parent's")
    assert path.read_text().count("\n") == 2


def test_a_lost_folder_keeps_the_old_file(tmp_path: Path) -> None:
    """F17."""
    folder = tmp_path / "logs"
    folder.mkdir()
    log = opened(logfile=folder / "x.log")
    folder.rename(tmp_path / "moved")
    log.info("still written")
    log.reopen()
    log.info("still")
    assert (tmp_path / "moved" / "x.log").read_text().count("still") == 2
    folder.mkdir()
    log.info("back")
    assert "back" in (folder / "x.log").read_text()
    log.close()


@pytest.mark.parametrize("what", ["folder", "no folder", "pipe"])
def test_what_cannot_be_a_log_is_refused(path: Path, what: str) -> None:
    if what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    else:
        path = path / "no" / "x.log"
    with pytest.raises(LogError, match=r"log .*x\.log "):
        opened(logfile=path)


def test_a_link_of_ones_own_is_followed(path: Path) -> None:
    target = path.with_name("target")
    path.symlink_to(target)
    log = opened(logfile=path)
    log.info("x")
    log.close()
    assert target.read_text()


@pytest.mark.root
def test_root_follows_no_link_of_others_and_no_hard_link(open_folder: Path) -> None:
    """F10, F11: this is how a log becomes /etc/shadow."""
    canary = open_folder / "canary"
    canary.write_text("canary\n")
    path = open_folder / "x.log"
    path.symlink_to(canary)
    os.lchown(path, NOBODY, NOBODY)
    with pytest.raises(LogError, match="somebody else's"):
        opened(logfile=path)
    path.unlink()
    os.link(canary, path)
    with pytest.raises(LogError, match="2 names"):
        opened(logfile=path)
    assert canary.read_text() == "canary\n"
    assert canary.stat().st_uid == 0


@pytest.mark.root
def test_only_a_new_log_is_given_to_its_owner(path: Path) -> None:
    settings = Ghost(name="unit", logfile=path).settings
    open_log(settings, owner=(NOBODY, 7)).close()
    assert (path.stat().st_uid, path.stat().st_gid) == (NOBODY, 7)
    path.unlink()
    path.touch()
    open_log(settings, owner=(NOBODY, 7)).close()
    assert path.stat().st_uid == 0


# -- streams and loggers -------------------------------------------------------------


def test_a_handle_is_written_to_and_stays_open() -> None:
    stream = io.StringIO()
    log = opened(loghandle=stream, logfile="/no/such/folder/x.log")
    log.info("x")
    log.reopen()
    log.close()
    assert LINE.fullmatch(stream.getvalue()[:-1])
    stream.write("still open")


def test_a_handle_needs_no_flush() -> None:
    class Bare:
        text = ""

        def write(self, text: str) -> None:
            self.text += text

    bare = Bare()
    log = opened(loghandle=bare)
    log.info("x")
    log.close()
    assert bare.text.endswith("x\n")


class DuckLogger:
    """Has what a logger must have, and not one method more."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str]] = []

    def debug(self, text: str) -> None:
        self.said.append(("debug", text))

    def info(self, text: str) -> None:
        self.said.append(("info", text))

    def error(self, text: str) -> None:
        self.said.append(("error", text))


def test_a_duck_is_a_logger() -> None:
    duck = DuckLogger()
    log = opened(logger=duck, loghandle=io.StringIO(), loglevel="trace")
    for level in LEVELS:
        getattr(log, level)("a %s", level, extra={"event": "x"})
    assert [level for level, _ in duck.said] == [
        *("debug", "debug", "info", "info", "info"),
        *("error", "error", "error", "error"),
    ]
    assert duck.said[0] == ("debug", "a trace")
    try:
        raise ValueError("quack")  # noqa: TRY301
    except ValueError:
        log.exception("it")
    assert "ValueError: quack" in duck.said[-1][1]


def test_a_level_of_a_duck() -> None:
    duck = DuckLogger()
    log = opened(logger=duck, loglevel="error")
    log.warning("no")
    log.error("yes")
    assert duck.said == [("error", "yes")]
    log.reopen()
    log.close()


def test_a_duck_with_more_methods_is_asked_by_name() -> None:
    class Proud(DuckLogger):
        def notice(self, text: str) -> None:
            self.said.append(("notice", text))

        def emerg(self, text: str) -> None:
            self.said.append(("emerg", text))

    duck = Proud()
    log = opened(logger=duck)
    log.notice("a")
    log.emerg("b")
    assert duck.said == [("notice", "a"), ("emerg", "b")]


def test_a_logger_that_raises_ends_nobody() -> None:
    class Angry(DuckLogger):
        def info(self, text: str) -> None:
            raise OSError(text)

    opened(logger=Angry()).info("x")


def test_a_standard_logger_gets_extra_and_the_callers_place() -> None:
    records: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    logger = logging.Logger("users.own")  # noqa: LOG001
    logger.addHandler(Keep())
    for target in (logger, logging.LoggerAdapter(logger, {})):
        log = opened(logger=target)
        log.notice(
            "x %d", 7, extra={"event": "spirit.spawned"} if target is logger else None
        )
        record = records.pop()
        assert record.getMessage() == "x 7"
        assert (
            record.funcName == "test_a_standard_logger_gets_extra_and_the_callers_place"
        )
        assert record.filename == "test_logs.py"


def test_a_logger_wins_over_handle_and_file(path: Path) -> None:
    duck, stream = DuckLogger(), io.StringIO()
    opened(logger=duck, loghandle=stream, logfile=path).info("x")
    assert duck.said
    assert not stream.getvalue()
    assert not path.exists()


# -- the standard library's logging ----------------------------------------------------


@pytest.mark.usefixtures("log")
def test_logging_of_user_code_lands_in_the_same_place(path: Path) -> None:
    logging.getLogger("ghostd.unit").warning("from %s", "logging")
    logging.getLogger("ghostd.unit.part").error("from below")
    logging.getLogger("ghostd.unit").log(35, "between warn and error")
    said = [LINE.fullmatch(x).group(4, 5) for x in path.read_text().splitlines()]  # type: ignore[union-attr]
    assert said == [
        ("warn", "from logging"),
        ("error", "from below"),
        ("warn", "between warn and error"),
    ]


def test_lines_are_not_written_a_second_time_by_the_root_logger(log: Log) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logging.getLogger().addHandler(handler)
    log.warning("once")
    logging.getLogger().removeHandler(handler)
    assert stream.getvalue() == ""


def test_a_log_that_is_opened_again_is_not_written_twice(path: Path) -> None:
    for _ in range(3):
        log = opened(logfile=path)
    log.info("once")
    log.close()
    assert path.read_text().count("once") == 1


def test_extra_and_the_callers_place_reach_other_handlers(log: Log) -> None:
    records: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    keep = Keep()
    log.logger.addHandler(keep)
    log.info("x %s", 1, extra={"event": "spirit.spawned", "pid": 7})
    log.log("warn", "y")
    log.logger.removeHandler(keep)
    assert (records[0].event, records[0].pid) == ("spirit.spawned", 7)  # type: ignore[attr-defined]
    assert [r.funcName for r in records] == [
        "test_extra_and_the_callers_place_reach_other_handlers"
    ] * 2
    assert records[0].getMessage() == "x 1"
    assert json.dumps({"message": records[0].getMessage()})


# -- syslog ----------------------------------------------------------------------------


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the path where a syslog service would listen."""
    where = tmp_path / "dev-log"
    monkeypatch.setattr(targets, "SYSLOG_SOCKETS", (str(tmp_path / "no"), str(where)))
    return where


def listen(where: Path) -> socket.socket:
    """Be a syslog service."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(str(where))
    sock.settimeout(5)
    return sock


def heard(sock: socket.socket) -> list[bytes]:
    """Give what has come so far."""
    found = []
    while select.select([sock], [], [], 0)[0]:
        found.append(sock.recv(65536))
    return found


def test_a_line_of_syslog(service: Path) -> None:
    with listen(service) as sock:
        log = opened(ident="jobs", facility="local3", loglevel="trace")
        log.info("hello %s", "there")
        (line,) = heard(sock)
        head = re.fullmatch(
            rb"<(\d+)>([A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d) jobs\[(\d+)\]: (.*)", line
        )
        assert head
        assert int(head[1]) == 19 * 8 + 6
        assert int(head[3]) == os.getpid()
        assert head[4] == b"hello there"
        for level in LEVELS:
            log.log(level, "x")
        severities = [int(x[1 : x.index(b">")]) % 8 for x in heard(sock)]
        assert severities == [7, 7, 6, 5, 4, 3, 2, 1, 0]
        log.close()


def test_options_of_syslog(service: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with listen(service) as sock:
        log = opened(ident="jobs", logopt="perror")
        log.info("x\ny")
        log.close()
        (line,) = heard(sock)
        assert b" jobs: x\n    y" in line, "no pid was asked for"
        assert capfd.readouterr().err.endswith(" jobs: x\n    y\n")


def test_a_service_that_was_restarted_is_found_again(service: Path) -> None:
    with listen(service) as sock:
        log = opened()
        log.info("one")
        assert len(heard(sock)) == 1
    service.unlink()
    log.info("lost")
    with listen(service) as sock:
        log.info("two")
        lines = heard(sock)
        assert b"1 log lines were lost" in lines[0]
        assert lines[1].endswith(b": two")
    log.close()


@pytest.mark.parametrize("logopt", ["ndelay,pid", "pid"])
def test_a_service_that_comes_late_is_found(service: Path, logopt: str) -> None:
    log = opened(logopt=logopt)
    log.info("lost")
    with listen(service) as sock:
        log.info("heard")
        assert heard(sock)[-1].endswith(b": heard")
    log.close()


def test_a_service_that_stops_reading_never_blocks(service: Path) -> None:
    """The library's own handler waits without end."""
    with listen(service) as sock:
        log = opened()
        began = time.monotonic()
        for number in range(1000):
            log.info("number %d", number)
        assert time.monotonic() - began < 5
        got = heard(sock)
        assert got[0].endswith(b": number 0")
        log.info("afterwards")
        lines = heard(sock)
        lost = int(re.search(rb": (\d+) log lines were lost", lines[0])[1])  # type: ignore[index]
        assert lost + len(got) == 1000
        assert lines[1].endswith(b": afterwards")
        log.close()


def test_a_very_long_line_is_cut_for_syslog(service: Path) -> None:
    with listen(service) as sock:
        log = opened()
        log.info("x" * 100_000)
        assert len(heard(sock)[0]) == 8192
        log.close()


def test_no_service_at_all_costs_lines_only(service: Path) -> None:
    assert not service.exists()
    log = opened()
    log.info("to nobody")
    log.reopen()
    log.info("to nobody")
    log.close()


# -- without losing anything to signals ------------------------------------------------


def test_signals_in_the_middle_of_lines(log: Log, path: Path) -> None:
    """S12: handlers only note; a line is written all the same."""

    def body() -> int:
        count = 0

        def note(*_: object) -> None:
            nonlocal count
            count += 1

        signal.signal(signal.SIGALRM, note)
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        for number in range(2000):
            log.info("line %d", number)
        signal.setitimer(signal.ITIMER_REAL, 0)
        return count

    assert in_child(body) > 3
    texts = [LINE.fullmatch(x)[5] for x in path.read_text().splitlines()]  # type: ignore[index]
    assert texts == [f"line {number}" for number in range(2000)]


def test_own_level_names_of_logging_stay() -> None:
    assert logging.getLevelName(30) == "WARNING"
    assert logging.getLevelName(25) == "NOTICE"
    assert logging.getLevelName(5) == "TRACE"


def test_a_ghosts_log_is_opened_by_its_settings_at_first_use(path: Path) -> None:
    ghost = Ghost(name="unit", logfile=path)
    assert not path.exists()
    ghost.log.info("first")
    assert ghost.log is ghost.log
    assert "first" in path.read_text()
