"""
Prefork: a daemon whose work is done by spirits.

The façade of the pool. `startup` hands over to `manager`; the pool's decisions are in
`core`, and what a spirit is in `spirit`.
"""

from __future__ import annotations

import os
from collections.abc import Coroutine, Iterable
from signal import Signals
from time import monotonic

from ghostd import settings
from ghostd.core.events import Reload, Resize
from ghostd.errors import GhostError, SettingsError
from ghostd.ghost import Ghost, is_asynchronous
from ghostd.manager import SIGNALS, Manager
from ghostd.settings import PoolSettings
from ghostd.spirit import Counted, Draining, HasFileno, Outside, Spirit
from ghostd.typed import TYPE_CHECKING, Any, ClassVar
from ghostd.unix import death, processors
from ghostd.views import PoolView, SocketView

if TYPE_CHECKING:
    from ghostd.loops import LoopSpirit, Ticks
    from ghostd.spirit import Answer


class Prefork(Ghost):
    """
    A pre-forking daemon.

    Subclass it and override `spirit`, or give the body: ``Prefork(spirit=body)``.

    Args:
        keywords: the fields of `GhostSettings` and `PoolSettings`, ``workers`` as
            another name of ``spirits``, and any hook by its name.

    Raises:
        SettingsError: a keyword is unknown, or its value is not allowed.
    """

    _has_loop = True

    HOOKS: ClassVar[tuple[str, ...]] = (
        *Ghost.HOOKS,
        "finish",
        "heartbeat",
        "load",
        "reap",
        "spawn",
        "spirit",
        "waitup",
    )

    _CHECKS: ClassVar[dict[str, settings.Check]] = {
        **settings.GHOST_CHECKS,
        **settings.POOL_CHECKS,
        "workers": settings.a_count_or_auto,
    }

    def _construct(self, keywords: dict[str, Any]) -> None:
        if "workers" in keywords:
            if keywords.get("spirits") is not None:
                raise SettingsError(
                    "spirits and workers are the same: give one of them"
                )
            keywords = {**keywords, "spirits": keywords["workers"]}
        given = settings.checked(settings.POOL_CHECKS, keywords)
        if given.get("spirits") == "auto":
            given["spirits"] = processors.usable()
        self.pool_settings: PoolSettings = PoolSettings(**given)
        if given.get("listen"):
            # Most daemons listen on nothing, and need not load what opens sockets.
            from ghostd.unix import addresses, sockets

            places = self.pool_settings.spirits + self.pool_settings.spare
            self._daemon.sockets = sockets.Sockets(
                addresses.parse_all(given["listen"]),
                backlog=self.pool_settings.backlog,
                reuseport=self.pool_settings.reuseport,
                slots=places,
            )
        self._manager: Manager | None = None
        # One step nearer than the daemon's: it is all that tick() looks at.
        self._spirit: Spirit | Counted | Outside = self._daemon.spirit
        pool = self.pool_settings
        self._daemon.control = self._control_path()
        self._patience = pool.graceful_timeout + pool.drain_delay
        # Nothing need be said while a newcomer boots, and while an old one leaves.
        self._boot_patience = (
            pool.boot_timeout + pool.canary_time + pool.graceful_timeout + 10.0
        )

    def _control_path(self) -> str:
        path = self.pool_settings.control
        if path is None:
            return self.settings.pidfile.removesuffix(".pid") + ".ctl"
        return os.path.abspath(path) if path else ""

    @staticmethod
    def _signals() -> Iterable[Signals]:
        return SIGNALS

    # -- what is set -----------------------------------------------------------

    @property
    def spirits(self) -> int:
        """
        Wanted number of spirits.

        In the manager it can be set at any time, from a hook for example; the pool
        follows in its next turn.
        """
        if self._manager is None:
            return self.pool_settings.spirits
        return self._manager.pool.wanted

    @spirits.setter
    def spirits(self, value: int) -> None:
        number = settings.a_count("spirits", value)
        if self._manager is None:
            fields = {**self.pool_settings.plain(), "spirits": number}
            self.pool_settings = PoolSettings(**fields)
        else:
            self._manager.wish(Resize(number))

    workers = spirits

    @property
    def spare(self) -> int:
        """At most this many extra spirits while others are leaving."""
        return self.pool_settings.spare

    @property
    def heartbeat_interval(self) -> float:
        """Seconds between two beats of a spirit."""
        return self.pool_settings.heartbeat_interval

    @property
    def heartbeat_timeout(self) -> float:
        """Seconds that a spirit may be late with its beat."""
        return self.pool_settings.heartbeat_timeout

    @property
    def graceful_timeout(self) -> float:
        """Seconds from being told to quit to SIGKILL."""
        return self.pool_settings.graceful_timeout

    # -- what is ---------------------------------------------------------------

    @property
    def ok(self) -> bool:
        """Tell whether to go on; in the manager: no shutdown has begun."""
        stopping = self._manager is not None and self._manager.pool.stopping is not None
        return self._daemon.spirit.ok and not stopping

    @property
    def pool(self) -> PoolView:
        """The members, pid -> member; empty where no pool runs."""
        members = {} if self._manager is None else self._manager.pool.members
        return PoolView(members, monotonic())

    @property
    def sockets(self) -> SocketView:
        """
        What is listened on, name -> socket, in the order of ``listen``.

        Empty in the launcher; open in the daemon from before `init`, and in each
        spirit. They are the same sockets in all of them, also as to whether they
        block; with ``reuseport`` a spirit has those of its slot.
        """
        return SocketView(self._daemon.sockets)

    @property
    def healthy(self) -> int:
        """Number of members with at least one beat."""
        return 0 if self._manager is None else self._manager.pool.healthy

    @property
    def slot(self) -> int | None:
        """In a spirit: its place, 0 to ``spirits - 1``; elsewhere None."""
        return self._daemon.spirit.slot

    @property
    def generation(self) -> int | None:
        """In a spirit: how many reloads came before it; elsewhere None."""
        return self._daemon.spirit.generation

    @property
    def draining(self) -> Draining:
        """
        In a spirit: true once it has been asked to leave, or has said farewell.

        A flag in every body; an asynchronous one may also ``await self.draining``.
        """
        return Draining(self._daemon.spirit)

    @property
    def lag(self) -> float:
        """
        Seconds by which the spirit's event loop was late when it last looked.

        It looks once in a second, or in a *heartbeat_interval* shorter than that. 0 in
        a plain body, and outside of spirits.
        """
        return self._daemon.spirit.lag

    # -- what to do ------------------------------------------------------------

    def startup(self) -> int:
        """
        Run the manager until the pool is stopped; also without daemonizing.

        Returns:
            The exit code, 1 when the pool gave up, else 0.

        Raises:
            GhostError: there is no body, or this is not the main thread.
        """
        self._check_body()
        life = self._daemon
        opens = life.sockets is not None and not life.sockets.is_open
        alone = not life.inbox.is_open
        if alone:
            life.inbox.open()
            life.begin()
        life.inbox.reaction = None
        life.inbox.adopt()
        self._manager = manager = Manager(
            self.pool_settings,
            self,
            self.log,
            life.inbox,
            become=self._become,
            ready=self._ready,
            housekeeping=self._keep_house,
            sockets=life.sockets,
            boot_deadline=life.boot_deadline,
            listener=life.take_listener(),
        )
        try:
            if opens:
                life.listen()
            code = manager.run()
        finally:
            life.spirit.ok = False
            self._manager = None
            if opens:
                life.hang_up()
            if alone:
                life.inbox.close()
        if manager.pool.failure:
            life.report.failed(manager.pool.failure)
        life.interrupted = code == 0
        return code

    def tick(self, finished: bool = False) -> bool:
        """
        Send the beat if one is due, and tell whether to go on; in the body's loop.

        It never blocks and costs about as much as a method call, so call it as often
        as you like. Outside a spirit it sends nothing.

        Args:
            finished: say farewell: this spirit leaves, its replacement may start.

        Returns:
            `ok`; False after a farewell.
        """
        spirit = self._spirit
        if finished or monotonic() >= spirit.due:
            return spirit.beat(finished)
        return spirit.ok

    def ready(self) -> None:
        """
        Say that this spirit is ready, in its body: send the first beat.

        The first `tick`, `wait` or turn of `ticks` says so, too. Until then no beat is
        sent, and `boot_timeout` counts; from then on an asynchronous body need not
        tick: its loop beats.
        """
        self.tick()

    def wait(self, seconds: float, *files: HasFileno | int) -> Answer:
        """
        Sleep at most *seconds*, or until there is something to read. Gives `ok`.

        In a plain body it blocks, and ends at once when the spirit is asked to leave
        or the manager dies; that holds in the main thread and in each of *threads*. It
        beats while it waits, so it may last longer than `heartbeat_timeout`. Python's
        own ``time.sleep`` does neither.

        An asynchronous body writes ``await self.wait(seconds)``; others of its tasks
        run meanwhile. A thread that it started calls it as a plain body does.

        Args:
            seconds: at most so long, from 0.
            files: for plain bodies: descriptors, or what has one (``fileno()``), such
                as a listening socket; anything to read on one of them, or its end,
                ends the wait. Which one it was is not told.

        Raises:
            TypeError: *files* in an asynchronous body.
        """
        return super().wait(seconds, *files)  # type: ignore[return-value]  # see Answer

    def ticks(self, every: float = 1.0) -> Ticks:
        """
        Go round once in *every* seconds: ``async for _ in self.ticks(every=1.0)``.

        For asynchronous bodies. The first turn comes at once and makes the spirit
        ready; the last one is over when `ok` is False. A turn that lasts too long is
        followed at once by the next one, and what was missed is not made up for.

        Args:
            every: seconds from one turn's beginning to the next one's.
        """
        from ghostd.loops import Ticks

        return Ticks(self, settings.a_positive_duration("every", every))

    def retire(self, why: str = "it asked to be") -> None:
        """
        In a spirit: ask to be replaced, and go on until the successor serves.

        Then QUIT comes as usual. Outside a spirit nothing happens.

        Args:
            why: for the log, in a few words.
        """
        spirit = self._daemon.spirit
        if isinstance(spirit, Spirit):
            spirit.tired(why)

    def reload_spirits(self) -> None:
        """
        In the manager: replace all spirits by those of a new generation.

        The first of them has to prove itself before any other is born.
        """
        if self._manager is not None:
            self._manager.wish(Reload())

    # -- hooks -----------------------------------------------------------------

    def spirit(self) -> object:
        """
        Be the body of a spirit; loop over `tick`. Must be overridden or given.

        It may be ``async def``; then it runs on an event loop that is made for it.
        """
        raise GhostError(f"{type(self).__name__} has no spirit(): override it")

    def load(self) -> None:
        """
        Import the application: in each spirit before its body, or once in a mold.

        With ``preload=True`` it runs once for each generation, in the process from
        which the spirits of that generation are forked; the manager never runs it. A
        QUIT meanwhile ends it at once. What it raises ends that spirit, or the mold,
        and with it a generation that is on trial.
        """

    @property
    def _loads(self) -> bool:
        return type(self).load is not Prefork.load or "load" in vars(self)

    def spawn(self, pid: int) -> None:
        """Note that a spirit was born; it is a member already."""

    def heartbeat(self, pid: int) -> None:
        """Note a beat of a member."""

    def reap(self, pid: int) -> None:
        """Note that a spirit is dead; it is no member any more."""

    def waitup(self) -> None:
        """Do something before each wait of the manager."""

    def finish(self, graceful: bool) -> None:
        """Note that the pool shuts down; once more if graceful becomes immediate."""

    def hangup(self) -> None:
        """Answer HUP and USR2: reopen the log, replace all spirits one by one."""
        self.log.reopen()
        self.reload_spirits()

    # -- between the façade and the manager ------------------------------------

    def _check_body(self) -> None:
        # While this process still has all rights, also those to read the library.
        death.prepare()
        if self._loads:
            import resource  # noqa: F401 - for spirits that load

            if self.pool_settings.preload:
                from ghostd import foundry  # noqa: F401 - for the manager and its molds
        if self._daemon.sockets is not None:
            self._daemon.sockets.check()
        if type(self).spirit is Prefork.spirit and "spirit" not in vars(self):
            raise GhostError(
                f"{self.name} has no body: override spirit(), or give spirit=callable"
            )
        if is_asynchronous(self.spirit):
            from ghostd import loops

            loops.check(self.pool_settings)

    def _serve(self) -> int:
        result: object = self.startup()  # an override may give anything
        return result if isinstance(result, int) else 0

    def _ready(self, healthy: int, wanted: int) -> None:
        report = self._daemon.report
        if healthy < wanted:
            report.note(f"{healthy} of {wanted} spirits have had their first beat yet")
        report.ready()

    def _become(
        self, spirit: Spirit | Outside, lent: Iterable[int] | None = None
    ) -> None:
        if isinstance(spirit, Spirit):
            if self._daemon.sockets is not None:
                self._daemon.sockets.take(spirit.slot, lent)
            self._be(spirit)
        else:
            self._spirit = self._daemon.spirit = spirit
        self._manager = None

    def _be(self, spirit: Spirit) -> None:
        self._spirit = self._daemon.spirit = spirit
        if (limit := self.pool_settings.max_ticks) is not None:
            share = self.pool_settings.jitter * (os.getpid() * 0.618034 % 1.0)
            self._spirit = Counted(spirit, max(1, round(limit * (1.0 - share))))

    def _load_in_mold(self) -> None:
        """Load what runs the body, too: the spirits of the mold share it then."""
        settings = self.pool_settings
        if is_asynchronous(self.spirit):
            _kind_for(settings.loop).prepare(settings.loop)
        elif settings.threads > 1:
            import ghostd.crew  # noqa: F401 - for the spirits
        self.load()

    def _embody(self) -> object:
        """Run the body, whatever its kind, in the spirit that is of the same kind."""
        spirit, settings = self._daemon.spirit, self.pool_settings
        if isinstance(spirit, Spirit) and settings.threads > 1:
            from ghostd.crew import Crew

            crew = Crew.instead_of(spirit)
            self._be(crew)
            return crew.run(self.spirit, settings, self.log)
        result = self.spirit()
        if isinstance(spirit, Spirit) and isinstance(result, Coroutine):
            looped = _kind_for(settings.loop).instead_of(spirit)
            self._be(looped)
            return looped.run(result, settings, self.log)
        return result

    def _keep_house(self) -> None:
        if self.filepid.held and not self.filepid.tend():
            self.log.warning(
                "Pidfile %s is gone and cannot be put back",
                self.pidfile,
                extra={"event": "pidfile.lost"},
            )


def _kind_for(loop: object) -> type[LoopSpirit]:
    """Load, in a spirit, what runs its body on that loop."""
    if loop == "trio":
        from ghostd.trios import TrioSpirit

        return TrioSpirit
    from ghostd.aio import AioSpirit

    return AioSpirit
