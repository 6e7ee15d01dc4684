"""
Frozen values: what a record is made of in this house.

A `Value` subclass lists its fields as annotations, like a frozen dataclass, and
type checkers treat it as one. It is not one: `dataclasses` costs 16 to 20 ms and
2.7 MiB to import, and near 1 ms more for each class, where all of ghostd may cost
30 ms and 5 MiB (docs/adr/0007). Fields may have defaults; there are no factories.
"""

from __future__ import annotations

from ghostd.typed import Any, ClassVar, dataclass_transform


@dataclass_transform(frozen_default=True)
class Value:
    """A frozen record: equal by type and fields, printed with its field names."""

    __match_args__: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        """Read the fields off the annotations, those of the parents first."""
        own = cls.__annotations__ if "__annotations__" in vars(cls) else {}
        fields = [name for name, kind in own.items() if "ClassVar" not in str(kind)]
        names = tuple(dict.fromkeys((*cls.__match_args__, *fields)))
        cls.__match_args__ = names  # type: ignore[misc]  # the one place that may

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """
        Take the fields in their order or by name.

        Raises:
            TypeError: one is missing, unknown, or given twice.
        """
        fields = self.__match_args__
        given = dict(zip(fields, args, strict=False))
        if len(args) > len(fields) or kwargs.keys() & given.keys():
            raise TypeError(
                f"{type(self).__name__} takes {fields}, got {args} {kwargs}"
            )
        if unknown := kwargs.keys() - set(fields):
            raise TypeError(f"{type(self).__name__} has no {sorted(unknown)}")
        given.update(kwargs)
        for name in fields:
            if name not in given and not hasattr(type(self), name):
                raise TypeError(f"{type(self).__name__} needs {name!r}")
        self.__dict__.update(given)

    def __setattr__(self, name: str, value: object) -> None:
        """Refuse: a value does not change."""
        raise AttributeError(f"{type(self).__name__}.{name} cannot be set to {value!r}")

    def __eq__(self, other: object) -> bool:
        """Compare type and fields: ``Quit(7)`` is not ``Kill(7)``."""
        return type(self) is type(other) and self.plain() == other.plain()

    def __hash__(self) -> int:
        """Agree with `__eq__`."""
        return hash((type(self), *self.plain().values()))

    def __repr__(self) -> str:
        """Show every field, in order."""
        fields = ", ".join(f"{name}={value!r}" for name, value in self.plain().items())
        return f"{type(self).__name__}({fields})"

    def plain(self) -> dict[str, Any]:
        """Give the fields as a new dict, in order, defaults included."""
        return {name: getattr(self, name) for name in self.__match_args__}
