"""
The names of `typing` without its price.

Loading it takes 3 of the 30 ms that importing ghostd may cost. Annotations are never
evaluated in this house (``from __future__ import annotations``), so at run time the
names only have to exist. Type checkers see the real ones.
"""

from __future__ import annotations

__all__ = [
    "TYPE_CHECKING",
    "Any",
    "ClassVar",
    "NoReturn",
    "Protocol",
    "Self",
    "assert_never",
    "dataclass_transform",
]

TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import (
        Any,
        ClassVar,
        NoReturn,
        Protocol,
        Self,
        assert_never,
        dataclass_transform,
    )
else:
    Any = ClassVar = NoReturn = Protocol = Self = object

    def assert_never(value):  # noqa: ANN001, ANN201 - nobody reads these types
        """Fail: a type checker would have told that this is reached."""
        raise AssertionError(f"unexpected: {value!r}")

    def dataclass_transform(**_options):  # noqa: ANN003, ANN201 - see above
        """Leave a class as it is."""
        return lambda cls: cls
