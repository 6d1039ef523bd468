"""Whose fault an exception within a step is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hornbeam.engine.request import Request

__all__ = ["Blamed", "blaming"]


class Blamed(Exception):
    """An exception that belongs to some requests alone."""

    def __init__(self, requests: Sequence[Request], error: Exception) -> None:
        super().__init__(error)
        self.requests = requests
        self.error = error


class blaming:  # read as a phrase: `with blaming(requests):`
    """What fails within belongs to these requests."""

    __slots__ = ("requests",)

    def __init__(self, requests: Sequence[Request]) -> None:
        self.requests = requests

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, Blamed):
            raise Blamed(self.requests, error) from error
