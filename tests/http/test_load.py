"""
Serving under load while spirits come and go: nothing is lost but what was killed.

A few seconds of what `make chaos-http` does for a minute each; how long things take is
looked at only there.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.chaos import serve
from tests.chaos.serve import Case, Scale, Verdict

BRIEF = Scale(seconds=2, peace=0.2, rate=400, warm_up=0.2, spirits=3)


@pytest.mark.parametrize(
    ("torment", "case"),
    [
        (serve.reload, Case("asgi", True, "shared")),
        (serve.reload, Case("wsgi", False, "reuseport")),
        (serve.recycle, Case("asgi", False, "shared")),
        (serve.resize, Case("wsgi", True, "shared")),
        (serve.stop, Case("asgi", True, "shared")),
        (serve.kill, Case("asgi", False, "shared")),
    ],
    ids=lambda each: getattr(each, "__name__", str(each)),
)
def test_no_request_is_lost(torment: Callable[..., Verdict], case: Case) -> None:
    verdict = torment(case, BRIEF)

    assert not verdict.lost, verdict
