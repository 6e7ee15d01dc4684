"""
``--reload``: what the code is changed to is what runs, and Ctrl-C ends all of it.

Three processes. This one, which was typed, stays small and imports nothing; it starts
the others and outlives them. The *manager* is its child, as clean as any. The *screen*
is its other child; that one has threads, watchfiles and rich, and says when a file has
changed. Nobody sends a signal to a number that may be somebody else's: the screen
speaks through a pipe, and a manager is signalled by its own parent.

If this process dies, the kernel tells the manager, and the screen finds its pipes
closed; if one of the others dies, this one sees to the rest.
"""

from __future__ import annotations

import os
import signal
from signal import SIGCHLD, SIGHUP, SIGINT, SIGKILL, SIGQUIT, SIGTERM

from ghostd.cli import plan as plans
from ghostd.cli.plan import Plan, Step
from ghostd.unix import death, fork
from ghostd.unix.child import Child, Ended
from ghostd.unix.poller import Poller
from ghostd.unix.signals import SignalInbox

STDERR = 2
LAST_LINES = 2.0
"""Seconds that the screen may take to show what it was sent."""

ENDING = (SIGINT, SIGTERM, SIGQUIT, SIGHUP)


def run(plan: Plan) -> int:
    """Run a daemon in the foreground and keep it at the state of its sources."""
    return Development(plan).run()


class Development:
    """A daemon, the eyes on its sources, and what to do when either says something."""

    def __init__(self, plan: Plan) -> None:
        """Prepare; `run` does everything."""
        self._step = plan.steps[0]
        self._watch = plan.watch or {}
        self._inbox = SignalInbox((*ENDING, SIGCHLD))
        self._poller = Poller()
        self._manager: Child | None = None
        self._ending = False
        self._again = False
        self._code = 0
        self._changes = self._say_change = self._log = -1

    def run(self) -> int:
        """Go on until the daemon is asked to end; give its exit code."""
        death.prepare()
        show, self._log = os.pipe()
        self._changes, self._say_change = os.pipe()
        screen = plans.aside(lambda: self._be_screen(show))
        fork.close(show, self._say_change)
        os.set_blocking(self._changes, False)
        self._inbox.open()
        self._poller.add(self._inbox.fd)
        self._poller.add(self._changes)
        try:
            # The first manager is started by the first word of the screen: that it
            # watches. What is changed while something starts is not missed then.
            while self._manager is not None or not self._ending:
                self._poller.wait(None)
                self._turn(screen)
        finally:
            self._inbox.close()
            # The screen ends when nobody is left who could write to it.
            fork.close(self._log, self._changes)
            if plans.end_of(screen, LAST_LINES) is None:
                screen.send(SIGKILL)
                plans.end_of(screen)
        return self._code

    def _turn(self, screen: Child) -> None:
        for number in self._inbox.take():
            if number in ENDING:
                self._ending = True
                if self._manager is not None:
                    # From a terminal it has heard so already; from `kill` it has not.
                    wanted = SIGINT if number == SIGHUP else signal.Signals(number)
                    self._manager.send(wanted)
        if self._manager is not None and (ended := self._manager.poll()):
            self._ended(ended)
        if fork.drain(self._changes):
            self._changed()
        elif screen.poll() is not None:
            self._poller.drop(self._changes)
            self._ending = True
            self._code = plans.WRONG
            if self._manager is not None:
                self._manager.send(SIGINT)

    def _start(self) -> None:
        parent = os.getpid()
        # It would die of one that comes before it can answer.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, [SIGHUP])
        self._manager = plans.aside(lambda: self._be_manager(parent))
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def _ended(self, ended: Ended) -> None:
        """Learn that the manager is gone; after a failure a change may mend it."""
        if self._manager is not None:
            self._manager.close()
        self._manager = None
        self._code = plans.code_of(ended)
        if self._ending:
            return
        if self._again:
            self._again = False
            self._start()
        elif self._code == 0:
            self._ending = True  # somebody said `ghostd stop`
        else:
            self._tell(f"{ended.words}; waiting for a change")

    def _changed(self) -> None:
        if self._ending:
            return
        if self._manager is None:
            self._start()
        elif self._step.app:
            # Its spirits import it, the first one on trial.
            self._manager.send(SIGHUP)
        elif self._is_good():
            # The manager itself has imported it, and nobody imports a thing twice.
            self._again = True
            self._manager.send(SIGQUIT)
        else:
            self._tell("the code is broken; the old one goes on")

    def _is_good(self) -> bool:
        """Have a child load the target."""
        child = plans.aside(self._load)
        ended = plans.end_of(child, self._step.limit)
        if ended is None:
            child.send(SIGKILL)
            ended = plans.end_of(child)
        return ended is not None and ended.clean

    def _load(self) -> int:
        os.dup2(self._log, STDERR)
        plans.make(self._step)
        return 0

    def _tell(self, words: str) -> None:
        os.write(self._log, f"{self._step.name}: {words}\n".encode())

    # -- in the children -------------------------------------------------------

    def _be_manager(self, parent: int) -> int:
        self._poller.close()
        fork.close(self._changes)
        # In the foreground the log goes to standard error, and so does all else that
        # somebody who develops should see.
        os.dup2(self._log, STDERR)
        fork.close(self._log)
        death.arm(SIGTERM)
        if os.getppid() != parent:
            return plans.WRONG
        step = self._step
        kept = {k: v for k, v in step.keywords.items() if k != "logfile"}
        return plans.obey(Plan("run", (Step(**{**step.plain(), "keywords": kept}),)))

    def _be_screen(self, show: int) -> int:
        from ghostd.cli import screen

        fork.close(self._log, self._changes)
        signal.signal(SIGINT, signal.SIG_IGN)  # it has the last word
        return screen.show(show, self._say_change, self._watch)
