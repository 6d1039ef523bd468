"""What the factors of a recipe have in common: frozen dataclasses with one method that each kind asks for."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar

from hornbeam import _native
from hornbeam.errors import ArgumentError

__all__ = ["Factor"]


@dataclass(frozen=True)
class Factor:
    """One choice of a recipe: a score, a split, a reduction or a moment.

    A class either names its implementation in Rust, whose parameters are the fields of the class, or
    overrides the one method of its kind in Python. Everything else that a recipe needs to know of it has a
    default.

    Raises:
        ArgumentError: a parameter is out of its range.
    """

    #: What the Rust side calls this kind of factor.
    kind: ClassVar[str]
    #: The method that a class in Python overrides.
    method: ClassVar[str]
    #: The name of the implementation in Rust; None for a class that is written in Python.
    native: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        if self.native is not None:
            _native.keep_check(self.kind, self.spec())

    @property
    def is_native(self) -> bool:
        """Whether Rust does the work, rather than a method that a subclass overrides in Python."""
        return self.native is not None and not self._overrides_method()

    def spec(self) -> tuple[str, dict[str, Any]]:
        """The name and the parameters as the native module takes them.

        Raises:
            ArgumentError: the class is written in Python.
        """
        if self.native is None:
            raise ArgumentError(
                f"{type(self).__name__} is written in Python, expected one that names its Rust"
            )
        return self.native, {field.name: _plain(getattr(self, field.name)) for field in fields(self)}

    def require_method(self) -> None:
        """Does nothing for a class that can work.

        Raises:
            ArgumentError: it neither names an implementation in Rust nor overrides the method of its kind.
        """
        if self.native is None and not self._overrides_method():
            name = type(self).__name__
            raise ArgumentError(f"{name} has no method {self.method}, expected a class that overrides it")

    def _overrides_method(self) -> bool:
        base = next(cls for cls in reversed(type(self).__mro__) if self.method in vars(cls))
        return getattr(type(self), self.method) is not vars(base)[self.method]


def _plain(value: Any) -> Any:
    if isinstance(value, Factor):
        return value.spec()
    if isinstance(value, tuple | list):
        flat = [_plain(item) for item in value]
        return [x for item in flat for x in (item if isinstance(item, list) else [item])]
    return value
