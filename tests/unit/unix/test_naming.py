"""Names of processes, as ps shows them."""

from __future__ import annotations

import os

import pytest
from tests.helpers import NOBODY, in_child

from ghostd.unix import naming


def rename() -> tuple[str, str]:
    return naming.rename("ghostd mold"), naming.name_of(os.getpid())


def test_a_process_gets_a_name_and_tells_the_old_one() -> None:
    before = naming.name_of(os.getpid())
    assert before
    assert in_child(rename) == (before, "ghostd mold")
    assert naming.name_of(os.getpid()) == before


@pytest.mark.root
def test_also_one_that_has_given_up_its_rights() -> None:
    def dropped() -> tuple[str, str]:
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        return rename()

    assert in_child(dropped)[1] == "ghostd mold"


def test_who_does_not_exist_has_no_name() -> None:
    assert naming.name_of(2**22 + 1) == ""
