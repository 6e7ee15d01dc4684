"""Hooks and bodies that raise anything: it is told, and the loop goes on."""

from __future__ import annotations

import signal

import pytest

from tests.faults import kit

ERRORS = ("Exception", "SystemExit", "KeyboardInterrupt", "RecursionError")

ALL_LOOP_HOOKS = """
import builtins

sys.setrecursionlimit(200)
class Service(Prefork):
    def fail(self, *args):
        if os.environ["ERROR"] == "RecursionError":
            return self.fail(*args)
        raise getattr(builtins, os.environ["ERROR"])("on purpose")

    spawn = waitup = heartbeat = reap = finish = cleanup = fail

    def hangup(self):
        self.reload_spirits()
        self.fail()

    def spirit(self):
        while self.tick():
            self.wait(0.5)
"""

ONE_HOOK = """
import builtins

sys.setrecursionlimit(200)
class Service(Prefork):
    def fail(self, *args):
        if os.environ["ERROR"] == "RecursionError":
            return self.fail(*args)
        raise getattr(builtins, os.environ["ERROR"])("on purpose")

    def spirit(self):
        self.tick()
        if os.environ["HOOK"] == "later" and self.slot == 0:
            time.sleep(0.1)
            self.fail()
        while self.tick():
            self.wait(0.5)

if os.environ["HOOK"] != "later":
    setattr(Service, os.environ["HOOK"], Service.fail)
"""


@pytest.mark.parametrize("error", ERRORS)
def test_hooks_of_the_loop_may_raise_anything(error: str) -> None:
    with kit.service(ALL_LOOP_HOOKS, env={"ERROR": error}) as d:
        manager = kit.up(d)
        for number in range(2):
            dead = d.kill_spirit()
            d.wait_for(lambda dead=dead: dead not in d.spirits and kit.healthy(d)())
            before = set(d.spirits)
            d.signal(signal.SIGHUP)
            d.wait_for_line("Hook hangup failed", times=number + 1)
            d.wait_for(lambda old=before: kit.healthy(d)() and not old & set(d.spirits))
        assert d.pid == manager
        d.stop()
        kit.nothing_runs(d)

        hooks = ("spawn", "waitup", "heartbeat", "reap", "finish", "hangup", "cleanup")
        for hook in hooks:
            assert d.log_lines(f"Hook {hook} failed: {error}"), hook
        assert d.log_lines(f"Ghost process {manager} stopped")
        assert not kit.leftovers(d)


@pytest.mark.parametrize("hook", ["preinit", "init", "startup", "spirit"])
@pytest.mark.parametrize("error", ERRORS)
def test_hooks_of_the_start_end_it_in_words(hook: str, error: str) -> None:
    with kit.service(ONE_HOOK, env={"ERROR": error, "HOOK": hook}) as d:
        ended = d.ctrl("start")

        # Before the fork there is only the launcher, which Ctrl-C ends as usual.
        interrupted = hook == "preinit" and error == "KeyboardInterrupt"
        assert ended.returncode in ((130, -signal.SIGINT) if interrupted else (1,))
        assert not ended.stdout
        told = ended.stderr + d.log_text()
        assert "on purpose" in told or error in told, told
        kit.nothing_runs(d)
        assert not kit.leftovers(d)


@pytest.mark.parametrize("error", ERRORS)
def test_a_body_that_raises_later_is_replaced_and_told(error: str) -> None:
    with kit.service(ONE_HOOK, env={"ERROR": error, "HOOK": "later"}) as d:
        d.start()
        manager = d.pid
        d.wait_for_line("died: exit code 1", times=3)
        others = d.spirits

        assert d.pid == manager
        assert others
        if error == "SystemExit":
            assert d.log_lines("exits: on purpose")
        else:
            assert f"\n    {error}" in d.log_text()
            assert d.log_lines(f"failed: {error}")
