"""A breath of each kind of chaos; `make chaos` is the long form."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.chaos import chaos

SEED = 20_240_120


@pytest.mark.parametrize(
    ("mode", "size"),
    [
        (chaos.kills, 400),
        (chaos.manager_kills, 20),
        (chaos.jobs, 600),
        (chaos.storms, 6),
    ],
    ids=["kills", "manager kills", "jobs", "storm"],
)
def test_nothing_is_lost_in_chaos(mode: Callable[..., str], size: int) -> None:
    print(mode(size, chaos.seeded(mode, SEED)))
