"""Hooks: who is called, in which order, how often, and what if it raises."""

from __future__ import annotations

import re
import signal

import pytest
from tests.process.scripts import ghost, pool

from ghostd.testing import Daemon

TELLING = """
def tell(self, *words):
    self.log.info(" ".join(("hook", *map(str, words))))
def preinit(self):
    self.tell("preinit", os.getpid())
def init(self):
    self.tell("init", os.getpid())
def spawn(self, pid):
    self.tell("spawn", pid)
def heartbeat(self, pid):
    self.tell("heartbeat", pid)
def reap(self, pid):
    assert pid not in self.pool
    self.tell("reap", pid)
def finish(self, graceful):
    self.tell("finish", graceful)
def cleanup(self, scope):
    self.tell("cleanup", scope)
"""


def hooks(d: Daemon, pid: int | None = None) -> list[str]:
    """List the hooks that were called, in order; *pid*: only those for that spirit."""
    found = [re.search(r" hook (.*)", line) for line in d.log_lines(" hook ")]
    told = [match[1] for match in found if match]
    return [t.split()[0] for t in told if pid is None or t.split()[-1] == str(pid)]


def test_the_order_of_a_life() -> None:
    with Daemon(pool(TELLING, spirits=3)) as d:
        d.start()
        pid = d.pid
        spirits = d.spirits
        killed = d.kill_spirit()
        d.wait_for(lambda: d.healthy == 3 and killed not in d.spirits)
        d.stop()
        for each in [*spirits, killed]:
            story = hooks(d, each)
            assert story[0] == "spawn"
            assert story[-1] == "reap"
            assert story.count("spawn") == story.count("reap") == 1
            assert set(story[1:-1]) <= {"heartbeat"}
            assert "heartbeat" in story
        order = hooks(d)
        assert order[:2] == ["preinit", "init"]
        assert order.count("finish") == order.count("cleanup") == 1
        assert order[-1] == "cleanup"
        assert order.count("reap") == order.count("spawn") == 4
        assert d.log_lines(f"hook init {pid}")
        assert not d.log_lines(f"hook preinit {pid}"), "that is the launcher"


def test_a_beat_and_a_death_at_once_are_told_in_order() -> None:
    """P3: lives of a millisecond that tick and end well."""
    members = """
    def spirit(self):
        self.tick()
    """
    with Daemon(pool(TELLING, members, restart_budget=60)) as d:
        d.start()
        d.wait_for_line("hook reap", times=20)
        d.stop()
        spawned = set(re.findall(r"hook spawn (\d+)", d.log_text()))
        assert len(spawned) >= 20
        for pid in spawned:
            assert hooks(d, int(pid)) == ["spawn", "heartbeat", "reap"]
        assert not d.log_lines("too early")
        assert not d.log_lines("Hook", "failed"), (
            "a member, when spawn and beat are told"
        )


def test_it_is_a_member_when_spawn_and_beat_are_told() -> None:
    members = """
    def spawn(self, pid):
        self.log.info("spawned %s", self.pool[pid].phase.value)
    def heartbeat(self, pid):
        self.log.info("beat of %s", self.pool[pid].phase.value)
    """
    with Daemon(pool(members)) as d:
        d.start()
        d.wait_for_line("beat of alive", times=4)
        assert len(d.log_lines("spawned ")) == 2
        assert not d.log_lines("Hook", "failed")


def test_keywords_are_hooks_too_and_get_the_object() -> None:
    head = """
    def body(g):
        while g.tick():
            g.wait(5)
    def spawned(g, pid):
        g.log.info("spawned %d %s", pid, type(g).__name__)
    """
    script = pool("pass", head=head).replace(
        ").ctrl()",
        ", spirit=body, spawn=spawned, cleanup=lambda g, s: g.log.info('clean %d', s)"
        ").ctrl()",
    )
    with Daemon(script) as d:
        d.start()
        d.wait_for(lambda: len(d.log_lines("spawned", " G")) == 2)
        d.stop()
        assert d.log_lines("clean 1")


RAISED = {
    "Exception": "raise ValueError('from the hook')",
    "SystemExit": "sys.exit('from the hook')",
    "KeyboardInterrupt": "raise KeyboardInterrupt('from the hook')",
    "BaseException": "raise BaseException('from the hook')",
    "RecursionError": "deep = lambda: deep()\n    deep()",
    "unprintable": "raise Unprintable",
}

POOL_HOOKS = ("spawn", "heartbeat", "reap", "finish", "hangup", "cleanup")

UNPRINTABLE = """
class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError("no text")
"""


@pytest.mark.parametrize("what", RAISED)
def test_a_hook_that_raises_is_logged_and_the_loop_goes_on(what: str) -> None:
    """U1: every pool hook, every kind of exception, all in one daemon."""
    members = "\n".join(
        f"def {name}(self, *args):\n    {RAISED[what]}\n" for name in POOL_HOOKS
    )
    waitup = """
    def waitup(self):
        if self.healthy and not hasattr(self, "raised"):
            self.raised = True
            """ + RAISED[what].replace("\n", "\n        ")
    with Daemon(pool(members, waitup, head=UNPRINTABLE)) as d:
        d.start()
        pid = d.pid
        d.signal(signal.SIGHUP)
        killed = d.kill_spirit()
        d.wait_for(lambda: d.healthy == 2 and killed not in d.spirits)
        d.stop()
        assert d.endings[pid] == 0
        for name in (*POOL_HOOKS, "waitup"):
            assert d.log_lines("[error]", f"Hook {name} failed: "), name
        assert d.log_text().count("Traceback") >= 7
        if what not in ("RecursionError", "unprintable"):
            assert d.log_lines("Hook reap failed", "from the hook")


def test_finish_is_called_once_and_once_more_when_it_gets_harder() -> None:
    slow = """
    def spirit(self):
        while self.tick():
            self.wait(5)
        self.log.info("leaving")
        time.sleep(60)
    """
    with Daemon(pool(TELLING, slow, term="immediate", graceful_timeout=60)) as d:
        d.start()
        pid = d.pid
        for _ in range(3):
            d.signal(signal.SIGQUIT)
        d.wait_for_line("leaving", times=2)
        d.signal(signal.SIGTERM)
        d.wait_for(lambda: pid in d.endings)
        said = [line.split()[-1] for line in d.log_lines("hook finish")]
        assert said == ["True", "False"]


def test_spirits_can_be_set_from_a_hook() -> None:
    members = """
    def hangup(self):
        self.spirits = self.workers + 2
        self.log.info("wanted %d", self.spirits)
    def heartbeat(self, pid):
        if self.healthy == 4:
            self.spirits = 1
    """
    with Daemon(pool(members)) as d:
        d.start()
        d.signal(signal.SIGHUP)
        d.wait_for_line("Pool size 2 -> 4")
        d.wait_for_line("Pool size 4 -> 1")
        d.wait_for(lambda: len(d.spirits) == 1)


def test_the_pool_prints() -> None:
    """The document's reload example dumps it."""
    members = """
    def hangup(self):
        self.log.debug("pool:\\n%s", self.pool)
        self.log.info("member %r", next(iter(self.pool.values())))
        self.log.info("healthy %d of %d", self.healthy, len(self.pool))
        try:
            self.pool[1] = 2
        except TypeError:
            self.log.info("to look at, not to touch")
    """
    with Daemon(pool(members)) as d:
        d.start()
        d.signal(signal.SIGHUP)
        d.wait_for_line("to look at")
        first = d.spirits[0]
        text = d.log_text()
        assert re.search(r"pid slot generation phase +age last beat", text)
        assert re.search(rf"{first} +0 +0 alive +[\d.]+ s +[\d.]+ s", text)
        assert re.search(rf"member Member\(pid={first}, slot=0, .*phase=alive\)", text)
        assert "healthy 2 of 2" in text


def test_a_subprocess_of_a_hook_keeps_its_exit_status() -> None:
    members = """
    def hangup(self):
        done = subprocess.run([sys.executable, "-c", "raise SystemExit(42)"])
        self.log.info("status %d", done.returncode)
        self.slow = subprocess.Popen(["sleep", "0.5"])
    def reap(self, pid):
        self.log.info("reaped %d", pid)
    def finish(self, graceful):
        self.log.info("waited %s", self.slow.wait())
    """
    with Daemon(pool(members)) as d:
        d.start()
        d.signal(signal.SIGHUP)
        d.wait_for_line("status 42")
        d.kill_spirit()
        d.wait_for_line("reaped")
        d.stop()
        assert d.log_lines("waited 0")
        assert len(d.log_lines("reaped")) == 3


def test_a_slow_hook_is_said_and_nobody_is_blamed() -> None:
    members = """
    def hangup(self):
        time.sleep(1.5)
    """
    settings = {"heartbeat_interval": 0.2, "heartbeat_timeout": 0.6}
    with Daemon(pool(members, **settings)) as d:
        d.start()
        spirits = d.spirits
        d.signal(signal.SIGHUP)
        d.wait_for_line("[warn]", "Hook hangup held the manager up for 1.5 seconds")
        d.signal(signal.SIGTTIN)
        d.wait_for(lambda: d.healthy == 3)
        assert set(spirits) <= set(d.spirits)
        assert not d.log_lines("no heartbeat")


def test_who_is_who() -> None:
    """is_daemonized, is_spirited, pid, ok in each process."""
    members = """
    def who(self, where):
        self.log.info("%s: %s %s %s %s", where, self.is_daemonized, self.is_spirited,
                      self.pid == os.getpid(), self.ok)
    def init(self):
        self.who("daemon")
    def spawn(self, pid):
        self.who("manager")
    def spirit(self):
        self.tick()
        self.who("spirit")
        if os.fork() == 0:
            self.who("grandchild")
            os._exit(0)
        os.wait()
        while self.tick():
            self.wait(5)
        self.who("asked")
        self.tick(True)
        self.who("finished")
    """
    with Daemon(pool(members, spirits=1)) as d:
        d.start()
        d.wait_for_line("grandchild:")
        d.stop()
        said = dict(
            line.partition("[info] ")[2].split(": ")
            for line in d.log_lines(": ", "e")
            if line.endswith(("True", "False"))
        )
        assert said["daemon"] == "True False True True"
        assert said["manager"] == "True False True True"
        assert said["spirit"] == "True True True True"
        assert said["asked"] == "True True True False"
        assert said["finished"] == "True True True False"
        assert said["grandchild"].split()[1] == "False", "a child of it is no spirit"


def test_the_hooks_of_a_plain_ghost() -> None:
    members = """
    def preinit(self): print("preinit", flush=True)
    def init(self): self.log.info("hook init")
    def startup(self):
        self.log.info("hook startup %s", self.ok)
        while self.ok:
            self.wait(5)
        return 3
    def cleanup(self, scope): self.log.info("hook cleanup %d", scope)
    """
    with Daemon(ghost(members)) as d:
        started = d.start()
        pid = d.pid
        assert started.stdout == f"preinit\nRunning {pid}\n"
        d.wait_for_line("hook startup True")
        d.stop()
        assert hooks(d) == ["init", "startup", "cleanup"]
        assert d.log_lines("hook cleanup 1")
        assert d.endings[pid] == 3


@pytest.mark.parametrize(
    ("hook", "words"),
    [
        ("spirit='no function'", "spirit is 'no function'"),
        ("init=body_of_async", "asynchronous"),
        ("spirit=generator", "generator"),
        ("spawn=7", "spawn is 7"),
        ("spirits='many'", "spirits is 'many'"),
        ("sprits=4", "unknown keyword 'sprits', allowed: "),
    ],
)
def test_wrong_keywords_are_refused_at_construction(hook: str, words: str) -> None:
    """U5, U8."""
    head = """
    async def body_of_async(g): pass
    def generator(g): yield
    """
    script = pool(head=head).replace(").ctrl()", f", {hook}).ctrl()")
    if hook.startswith("spirits"):
        script = script.replace("spirits=2, ", "").replace(", spirits=2", "")
    with Daemon(script) as d:
        ended = d.ctrl("status")
        assert ended.returncode == 1
        assert words in ended.stderr
        assert "SettingsError" in ended.stderr
