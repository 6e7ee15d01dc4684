"""Scales: who is too heavy, several times in a row."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ghostd.core.events import Tired
from ghostd.scales import MIB, Scales
from ghostd.unix import memory


@pytest.fixture
def weights(monkeypatch: pytest.MonkeyPatch) -> dict[int, tuple[int, int]]:
    """Resident and proportional MiB by pid."""
    table: dict[int, tuple[int, int]] = {}
    monkeypatch.setattr(memory, "resident", lambda pid: table[pid][0] * MIB)
    monkeypatch.setattr(memory, "proportional", lambda pid: table[pid][1] * MIB)
    return table


def test_three_times_in_a_row_is_too_heavy(
    weights: dict[int, tuple[int, int]],
) -> None:
    one = Scales(100 * MIB, jitter=0)
    weights.update({1: (99, 99), 2: (130, 120)})

    told = [list(one.weigh([1, 2])) for _ in range(5)]

    assert told == [[], [], [Tired(2, "it has 120 MiB, allowed 100")], [], []]


def test_a_heavy_moment_is_forgotten(weights: dict[int, tuple[int, int]]) -> None:
    one = Scales(100 * MIB, jitter=0)
    for weight in (130, 130, 90, 130, 130):
        weights[1] = (weight, weight)
        assert not list(one.weigh([1]))


def test_what_is_shared_does_not_count_in_full(
    weights: dict[int, tuple[int, int]],
) -> None:
    one = Scales(100 * MIB, jitter=0)
    weights[1] = (300, 80)

    assert not [tired for _ in range(5) for tired in one.weigh([1])]


def test_limits_are_spread_but_never_raised() -> None:
    one = Scales(1000, jitter=0.1)

    limits = {one._limit_of(pid) for pid in range(100, 200)}  # noqa: SLF001

    assert len(limits) > 50
    assert 900 <= min(limits) <= max(limits) <= 1000


def test_a_share_is_of_what_there_is() -> None:
    assert memory.amount("50%") == memory.available() // 2
    assert memory.amount(1234) == 1234
    assert 64 * MIB < memory.available() < 1 << 50


def test_a_real_process_weighs_what_it_has() -> None:
    script = "x = b'x' * (50 << 20); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()

        resident = memory.resident(process.pid)
        proportional = memory.proportional(process.pid)
        process.communicate(b"\n", timeout=10)

    assert 50 * MIB < resident < 90 * MIB
    assert 50 * MIB < proportional <= resident
    assert memory.resident(process.pid) == memory.proportional(process.pid) == 0
