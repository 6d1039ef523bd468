"""What the factors of a recipe have in common: frozen dataclasses that name their Rust implementation."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar

from hornbeam import _native

__all__ = ["Factor"]


@dataclass(frozen=True)
class Factor:
    """One choice. Fields are the parameters of the Rust implementation that ``native`` names.

    Raises:
        ArgumentError: a parameter lies outside of its range; at construction.
    """

    kind: ClassVar[str]
    native: ClassVar[str]

    def __post_init__(self) -> None:
        _native.keep_check(self.kind, self.spec())

    def spec(self) -> tuple[str, dict[str, Any]]:
        """The name and the parameters as the native module takes them."""
        return self.native, {field.name: _plain(getattr(self, field.name)) for field in fields(self)}


def _plain(value: Any) -> Any:
    if isinstance(value, Factor):
        return value.spec()
    if isinstance(value, tuple | list):
        flat = [_plain(item) for item in value]
        return [x for item in flat for x in (item if isinstance(item, list) else [item])]
    return value
