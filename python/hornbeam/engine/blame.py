"""Whose fault an exception within a step is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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


@contextmanager
def blaming(requests: Sequence[Request]) -> Iterator[None]:
    """What fails within belongs to these requests."""
    try:
        yield
    except Blamed:
        raise
    except Exception as error:
        raise Blamed(requests, error) from error
