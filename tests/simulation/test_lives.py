"""
Lives from seeds: short here, a million turns with `python -m tests.simulation.lives`.

A seed that once broke a rule lies in `seeds/` and is told again for ever.
"""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from ghostd.core.actions import Action
from ghostd.core.events import Event
from ghostd.testing import Faults, Violation
from tests.simulation.lives import (
    RATES,
    SEEDS,
    Ledger,
    begin,
    invent,
    load,
    save,
    tell,
    work,
)


def test_a_hundred_thousand_turns_break_no_rule() -> None:
    ledger, failed = work(first=0, step=1, turns=100_000)

    assert failed is None, f"python -m tests.simulation.lives --seed {failed}"
    assert_the_storm_was_one(ledger)


def assert_the_storm_was_one(ledger: Ledger) -> None:
    """A simulation in which nothing goes wrong proves nothing."""
    kinds = (*get_args(Event), *get_args(Action))
    seldom = min(ledger.counts[kind.__name__] for kind in kinds)
    assert seldom > 50, ledger.counts


@pytest.mark.parametrize(
    "path", sorted(SEEDS.glob("*.json")), ids=lambda path: path.stem
)
def test_what_once_broke_a_rule_breaks_it_no_more(path: Path) -> None:
    tell(load(path))


@pytest.mark.parametrize("seed", range(20))
def test_the_same_seed_is_the_same_life(seed: int) -> None:
    one, other = (tell(invent(seed), keep=None) for _ in range(2))

    assert [*map(repr, one.history)] == [*map(repr, other.history)]


def test_every_fault_has_a_rate() -> None:
    assert set(RATES) == set(Faults().plain())


@pytest.mark.parametrize("seed", range(20))
def test_a_story_survives_its_file(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.simulation.lives.SEEDS", tmp_path)
    path = save(invent(seed), Violation("L2 stop", "made up", 0.0))

    assert load(path) == invent(seed)
    assert path.name == f"l2-stop-{seed}.json"


def test_a_violation_tells_what_came_before() -> None:
    world = begin(invent(0))
    while not world.history:
        world.turn()
    world.referee.wanted += 1

    with pytest.raises(Violation) as caught:
        world.run(3600)
    assert any("Spawned" in note for note in caught.value.__notes__)
