"""Asynchronous bodies on each loop: ready, beating, hung, drained, cancelled."""

from __future__ import annotations

import signal
import textwrap
import time
from functools import partial

import pytest
from tests.process.scripts import pool

from ghostd.testing import Daemon
from ghostd.unix import child

LOOPS = ("asyncio", "uvloop", "trio")
HEAD = """
import asyncio
from {library} import *

HERE = os.getcwd()  # a daemon of root's goes elsewhere

def first(name):
    "Tell whether this is the first to ask; spirits after it behave."
    name = str(name)
    try:
        os.close(os.open(os.path.join(HERE, name), os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True

async def until(name):
    while not os.path.exists(os.path.join(HERE, name)):
        await sleep(0.01)
"""

each_loop = pytest.mark.parametrize("loop", LOOPS)


def service(
    body: str, env: dict[str, str | None] | None = None, **settings: object
) -> Daemon:
    given = {"term": "immediate", "loop": "asyncio", **settings}
    # Each library takes its time to load, so none is loaded without need.
    library = "trio" if given["loop"] == "trio" else "asyncio"
    head = HEAD.replace("{library}", library)
    return Daemon(pool(body, head=head, **given), env=env)


def gone(pid: int) -> bool:
    return child.state(pid) in ("", "Z", "X")


# -- ready, beating, drained -----------------------------------------------------


@each_loop
def test_a_body_is_ready_when_it_says_so_and_the_loop_beats_from_then_on(
    loop: str,
) -> None:
    body = """
    async def spirit(self):
        self.log.info("begins")
        await until("go")
        self.ready()
        await self.draining
        await sleep(0.1)
        self.log.info(f"ends ok={self.ok} draining={bool(self.draining)}")

    def heartbeat(self, pid):
        self.log.info(f"beat of {pid}")
    """
    with service(body, loop=loop, start_timeout=0.3) as d:
        d.start()
        d.wait_for_line("begins", times=2)
        assert d.healthy == 0
        assert not d.log_lines("beat of")
        (d.folder / "go").touch()
        d.wait_for(lambda: d.healthy == 2)
        for pid in d.spirits:
            d.wait_for_line(f"beat of {pid}", times=3)
        d.stop()

        assert len(d.log_lines("ends ok=False draining=True")) == 2
        assert not d.log_lines("[error]")


def test_what_makes_a_body_ready() -> None:
    body = """
    async def spirit(self):
        match self.slot:
            case 0: self.tick()
            case 1: await self.wait(0)
            case 2: await self.wait(0.01)
            case 3: await anext(self.ticks(every=60))
        await self.draining
    """
    with service(body, spirits=4) as d:
        d.start()
        d.wait_for(lambda: d.healthy == 4)


def test_turns_come_at_their_times_and_the_lag_is_measured() -> None:
    body = """
    async def spirit(self):
        async for turn in self.ticks(every=0.1):
            if turn == 2:
                time.sleep(0.5)
            if turn == 4:
                self.log.info(f"late by {self.lag:.1f}")
            self.log.info(f"turn {turn}")
    """
    # In each look the lag is new, so there must be none between turns 2 and 4.
    with service(body, spirits=1, heartbeat_interval=0.45) as d:
        d.start()
        d.wait_for_line("turn 5")
        late = d.wait_for_line("late by")
        d.stop()

        assert float(late.split()[-1]) >= 0.1


@each_loop
def test_a_wait_ends_at_once_when_the_spirit_is_asked_to_leave(loop: str) -> None:
    """Also where the body has had signal handlers of its own, and takes them away."""
    body = """
    async def spirit(self):
        if self.pool_settings.loop != "trio":
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGUSR1, print)
            loop.remove_signal_handler(signal.SIGUSR1)
        while await self.wait(60):
            pass
    """
    # With a second between two looks of the loop at itself, a look is no help.
    with service(body, loop=loop, heartbeat_interval=5, spirits=1) as d:
        d.start()
        took = []
        for _ in range(3):
            d.wait_for(lambda: d.healthy == 1)
            began = time.monotonic()
            pid = d.kill_spirit(number=signal.SIGQUIT)
            d.wait_for(partial(gone, pid))
            took.append(time.monotonic() - began)

        assert min(took) < 0.3


def test_a_farewell_brings_the_replacement_and_ends_the_waits() -> None:
    body = """
    async def spirit(self):
        self.ready()
        if first("told"):
            waiting = asyncio.create_task(self.wait(60))
            await sleep(0)
            self.tick(finished=True)
            self.log.info(f"said farewell, ok={await waiting}")
            await until("go")
        await self.draining
    """
    with service(body, spirits=1) as d:
        d.start()
        d.wait_for_line("said farewell, ok=False")
        d.wait_for(lambda: len(d.spirits) == 2)
        (d.folder / "go").touch()
        d.wait_for(lambda: len(d.spirits) == 1)


def test_a_wait_that_is_not_awaited_is_told_once() -> None:
    body = """
    async def spirit(self):
        while self.tick():
            self.wait(1)
            if await self.wait(0.01) and os.path.exists(os.path.join(HERE, "go")):
                break
    """
    with service(body, spirits=1) as d:
        d.start()
        (pid,) = d.spirits
        d.wait_for_line(f"Spirit {pid} does not wait: write `await self.wait(...)`")
        (d.folder / "go").touch()
        d.wait_for_line(f"Spirit {pid} stopped")
        assert len(d.log_lines(f"Spirit {pid} does not wait")) == 1


def test_a_body_may_be_given_as_a_keyword_and_make_its_own_loop() -> None:
    head = """
    import asyncio

    class MyLoop(asyncio.SelectorEventLoop):
        pass

    async def body(ghost):
        ghost.log.info(f"runs on {type(asyncio.get_running_loop()).__name__}")
        while await ghost.wait(60):
            pass
    """
    script = pool("x = 1", head=head).replace("def spirit(self):", "def unused(self):")
    script = script.replace(").ctrl()", ", spirit=body, loop=MyLoop).ctrl()")
    with Daemon(script) as d:
        d.start()
        d.wait_for_line("runs on MyLoop", times=2)


@pytest.mark.parametrize(
    ("loop", "module"),
    [("asyncio", "ghostd.aio"), ("uvloop", "uvloop"), ("trio", "trio")],
)
def test_a_mold_loads_the_loop_for_all_its_spirits(loop: str, module: str) -> None:
    body = f"""
    def load(self):
        self.log.info("{module} is there: " + str("{module}" in sys.modules))

    async def spirit(self):
        self.log.info(f"begins, {{self.generation}}")
        while await self.wait(60):
            pass

    def waitup(self):
        assert "{module}" not in sys.modules  # the manager's
    """
    script = pool(body, preload=True, loop=loop, term="immediate")
    with Daemon(script, descriptors=False) as d:
        d.start()
        d.wait_for_line("begins, 0", times=2)
        d.signal(signal.SIGHUP)
        d.wait_for_line("begins, 1", times=2)
        d.wait_for(lambda: d.healthy == 2)

        assert len(d.log_lines(f"{module} is there: True")) == 2
        assert not d.log_lines("Hook waitup failed")


# -- hung, or busy ---------------------------------------------------------------


STUCK = {
    "asyncio": """
        match self.slot:
            case 0: time.sleep(60)
            case 1:
                while True: pass
            case 2:
                # Whoever ticks without letting the loop run is stuck as well.
                while self.tick() or True: pass
    """,
    "uvloop": "if self.slot == 0: time.sleep(60)",
    "trio": "if self.slot == 0: time.sleep(60)",
}


@each_loop
def test_a_blocked_loop_is_a_hung_spirit(loop: str) -> None:
    stuck = textwrap.indent(textwrap.dedent(STUCK[loop]), " " * 8)
    body = (
        "async def spirit(self):\n"
        "    async for turn in self.ticks(every=0.05):\n"
        "        if turn == 3 and self.slot < 3 and first(self.slot):\n"
        "            self.log.info(f'stuck {time.monotonic()}')\n"
        f"{textwrap.indent(stuck, '    ')}\n"
    )
    interval, timeout = 0.2, 0.8
    many = 3 if loop == "asyncio" else 1
    with service(
        body,
        loop=loop,
        spirits=4,
        spare=4,
        heartbeat_interval=interval,
        heartbeat_timeout=timeout,
        graceful_timeout=0.2,
    ) as d:
        d.start()
        d.wait_for_line("has no heartbeat", times=many)
        told = time.monotonic()
        began = [float(line.split()[-1]) for line in d.log_lines("stuck ")]
        d.wait_for_line("immediately", times=many)
        d.wait_for(lambda: d.healthy == 4)

        assert told - min(began) < interval + timeout + 1
        assert len(d.log_lines("has no heartbeat")) == many


def test_a_thread_beside_the_loop_does_not_vouch_for_it() -> None:
    body = """
    async def spirit(self):
        def vouch():
            while self.wait(0.01) is not None:
                self.tick()
        self.ready()
        await self.wait(0.2)
        if first("stuck"):
            threading.Thread(target=vouch, daemon=True).start()
            time.sleep(60)
        await self.draining
    """
    with service(
        body, heartbeat_interval=0.1, heartbeat_timeout=0.3, graceful_timeout=0.3
    ) as d:
        d.start()
        d.wait_for_line("has no heartbeat")
        d.wait_for_line("immediately")


@each_loop
def test_a_body_that_blocks_its_loop_sees_a_quit_if_it_looks(loop: str) -> None:
    body = """
    async def spirit(self):
        self.ready()
        while self.ok:
            pass
        self.log.info("has seen it")
    """
    with service(body, loop=loop, spirits=1, graceful_timeout=10) as d:
        d.start()
        d.wait_for(lambda: d.healthy == 1)
        d.stop()

        assert d.log_lines("has seen it")
        assert not d.log_lines("immediately")


BUSY = """
async def spirit(self):
    self.ready()
    while not self.draining:
        for _ in range(1000):
            pass
        await sleep(0)
"""


@each_loop
def test_a_busy_loop_that_gets_around_is_not_hung(loop: str) -> None:
    """For minutes: tests/chaos/busy.py."""
    with service(
        BUSY, loop=loop, spirits=1, heartbeat_interval=0.1, heartbeat_timeout=0.9
    ) as d:
        d.start()
        until = time.monotonic() + 1.5
        d.wait_for(lambda: time.monotonic() > until)
        d.stop()

        assert not d.log_lines("no heartbeat")
        assert not d.log_lines("cancelling")


# -- the end ---------------------------------------------------------------------


@each_loop
def test_what_still_runs_near_the_graceful_timeout_is_cancelled(loop: str) -> None:
    cleanup = "await sleep(0.05)"
    if loop == "trio":  # which cancels clean-ups as well, unless they are shielded
        cleanup = f"with CancelScope(shield=True): {cleanup}"
    body = f"""
    async def spirit(self):
        self.ready()
        try:
            await sleep(60)
        finally:
            {cleanup}
            self.log.info("cleaned up")
    """
    with service(body, loop=loop, graceful_timeout=3) as d:
        d.start()
        d.wait_for(lambda: d.healthy == 2)
        d.stop()

        assert len(d.log_lines("[warn]", "after 2.25 seconds, cancelling")) == 2
        assert len(d.log_lines("cleaned up")) == 2
        assert not d.log_lines("immediately")
        assert not d.log_lines("[error]")


def test_what_a_body_leaves_behind_is_ended_in_bounded_time() -> None:
    body = """
    async def spirit(self):
        async def task():
            try:
                await sleep(60)
            finally:
                self.log.info("task ends")

        async def deaf():
            while True:
                try:
                    await sleep(60)
                except asyncio.CancelledError:
                    pass

        async def failing():
            try:
                await sleep(60)
            finally:
                raise LookupError("too late")

        async def numbers():
            try:
                yield 1
                yield 2
            finally:
                self.log.info("generator ends")

        left = [asyncio.create_task(each(), name=each.__name__)
                for each in (task, deaf, failing)]
        generator = numbers()
        await anext(generator)
        asyncio.get_running_loop().run_in_executor(None, time.sleep, 60)
        await self.wait(60)
    """
    with service(body, spirits=1, graceful_timeout=2) as d:
        d.start()
        d.wait_for(lambda: d.healthy == 1)
        d.stop()

        assert d.log_lines("task ends")
        assert d.log_lines("generator ends")
        assert d.log_lines("leaves behind what does not end: deaf")
        assert d.log_lines("leaves behind what does not end: work in the executor")
        assert d.log_lines("failed while it was cancelled: LookupError: too late")
        assert not d.log_lines("immediately")


@pytest.mark.parametrize(
    ("loop", "doors"), [("asyncio", ""), ("uvloop", "pdeathsig"), ("trio", "pdeathsig")]
)
def test_the_managers_death_ends_it(loop: str, doors: str) -> None:
    body = """
    async def spirit(self):
        self.ready()
        if self.slot == 0:
            await self.draining
            self.log.info("left by itself")
        try:
            await sleep(60)
        finally:
            self.log.info("cleaned up")
    """
    with service(
        body, loop=loop, graceful_timeout=1, env={"GHOSTD_CLOSED_DOORS": doors}
    ) as d:
        d.start()
        d.wait_for(lambda: d.healthy == 2)
        d.signal(signal.SIGKILL)
        d.wait_for_line("left by itself")
        d.wait_for(lambda: not d.processes, 3, "the end of all spirits")

        assert len(d.log_lines("cleaned up")) == 2


# -- failures --------------------------------------------------------------------


@each_loop
def test_how_a_body_ends_is_told_as_of_a_plain_one(loop: str) -> None:
    body = """
    async def spirit(self):
        self.ready()
        if first(self.slot):
            await sleep(0.01)
            match self.slot:
                case 0: raise ValueError("oh")
                case 1: sys.exit(4)
                case 2: sys.exit("so long")
        await self.draining
    """
    with service(body, loop=loop, spirits=3, restart_budget=9) as d:
        d.start()
        d.wait_for_line("failed: ValueError: oh")
        d.wait_for_line("exits: so long")
        d.wait_for_line("died: exit code 4")
        d.wait_for_line("died: exit code 1", times=2)
        d.wait_for(lambda: d.healthy == 3)

        assert d.log_text().count("Traceback") == 1


@pytest.mark.parametrize(
    ("loop", "group"),
    [
        ("asyncio", "asyncio.TaskGroup() as group: group.create_task(leave())"),
        ("trio", "anyio.create_task_group() as group: group.start_soon(leave)"),
    ],
)
def test_an_exit_inside_of_a_group_of_tasks_is_an_exit(loop: str, group: str) -> None:
    body = f"""
    async def spirit(self):
        import anyio
        async def leave():
            sys.exit(5)
        self.ready()
        if first("ended"):
            async with {group}
        await self.draining
    """
    with service(body, loop=loop, spirits=1) as d:
        d.start()
        d.wait_for_line("died: exit code 5")


def test_a_failure_before_the_first_beat_fails_the_start() -> None:
    body = """
    async def spirit(self):
        await sleep(0)
        raise ValueError("no database")
    """
    with service(body) as d:
        ended = d.ctrl("start")

        assert ended.returncode == 1
        assert "ValueError: no database" in ended.stderr
        assert "Traceback" in ended.stderr


def test_what_nobody_caught_in_a_task_is_in_the_log() -> None:
    body = """
    async def spirit(self):
        async def task():
            raise ValueError("oh")
        asyncio.create_task(task())
        asyncio.get_running_loop().call_soon(lambda: 1 / 0)
        while await self.wait(0.1):
            pass
    """
    with service(body, spirits=1) as d:
        d.start()
        d.wait_for_line("Task exception was never retrieved: ValueError: oh")
        d.wait_for_line("Exception in callback", "ZeroDivisionError")
        d.stop()

        assert "Traceback" in d.log_text()


def test_mistakes_are_told() -> None:
    body = """
    async def spirit(self):
        self.ready()
        if first(self.slot):
            match self.slot:
                case 0:
                    while self.wait(1): pass
                case 1: await self.wait(1, 0)
                case 2: asyncio.current_task().cancel(); await sleep(1)
                case 3: asyncio.get_running_loop().stop(); await sleep(1)
        await self.draining
    """
    with service(body, spirits=4, restart_budget=9) as d:
        d.start()
        d.wait_for_line("TypeError", "write `await self.wait(...)`")
        d.wait_for_line("TypeError", "by the means of its loop")
        d.wait_for_line("failed: CancelledError")
        d.wait_for_line("RuntimeError", "loop stopped before")
        d.wait_for(lambda: d.healthy == 4)


def test_a_missing_loop_is_told_before_anything_is_forked() -> None:
    body = """
    async def spirit(self):
        await self.wait(60)
    """
    script = pool(body, head="sys.modules['uvloop'] = None", loop="uvloop")
    with Daemon(script) as d:
        ended = d.ctrl("start")

        assert ended.returncode == 1
        assert "uvloop cannot be imported" in ended.stderr
        assert 'pip install "ghostd[uvloop]"' in ended.stderr
        assert not d.log_text()


# -- beside the loop -------------------------------------------------------------


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_threads_and_programs_that_a_body_starts(loop: str) -> None:
    body = """
    async def spirit(self):
        program = await asyncio.create_subprocess_exec(
            "echo", "hello", stdout=asyncio.subprocess.PIPE
        )
        text, _ = await program.communicate()
        self.log.info(f"program says {text.decode().strip()}, {program.returncode}")
        self.ready()
        ok = await asyncio.to_thread(self.wait, 60)
        self.log.info(f"thread waited, ok={ok!r}")
    """
    with service(body, spirits=1, loop=loop) as d:
        d.start()
        d.wait_for_line("program says hello, 0")
        d.stop()

        assert d.log_lines("thread waited, ok=False")
        assert not d.log_lines("immediately")
