"""Budgets: tokens a kv head, a percentage or bytes become one number of tokens."""

from __future__ import annotations

import re
from fractions import Fraction

from hornbeam.errors import ArgumentError
from hornbeam.integers import BYTE_UNITS

__all__ = ["Budget", "parse", "resolve"]

#: Tokens a kv head as an int, a ratio as "30%", or bytes a sequence as "64MB" or "64MiB".
Budget = int | str

_TEXT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(%|[KMGT]?i?B)\s*")


def resolve(budget: Budget, *, num_tokens: int, num_planes: int, token_bytes: int) -> int:
    """The number of tokens that a budget allows over all planes of one sequence, rounded down.

    Args:
        budget: see :data:`Budget`.
        num_tokens: tokens of the sequence.
        num_planes: layers times kv heads.
        token_bytes: of one key and one value of one head.

    Returns:
        At most ``num_tokens * num_planes``.

    Raises:
        ArgumentError: ``budget`` is not a count, a percentage or a byte size, is negative, or is above 100 %.
    """
    everything = num_tokens * num_planes
    kind, amount = parse(budget)
    if kind == "tokens":
        return min(int(amount) * num_planes, everything)
    if kind == "ratio":
        return int(amount * everything)
    return min(int(amount / token_bytes), everything) if token_bytes else everything


def parse(budget: Budget) -> tuple[str, Fraction]:
    """Reads a budget as its kind, "tokens", "ratio" or "bytes", and the amount."""
    expected = 'expected tokens a head as an int, a ratio as "30%", or bytes as "64MB"'
    if isinstance(budget, int) and not isinstance(budget, bool):
        if budget < 0:
            raise ArgumentError(f"budget is {budget}, expected at least 0")
        return "tokens", Fraction(budget)
    match = _TEXT.fullmatch(budget) if isinstance(budget, str) else None
    if match is None or (match[2] != "%" and match[2] not in BYTE_UNITS):
        raise ArgumentError(f"budget is {budget!r}, {expected}")
    amount = Fraction(match[1])
    if match[2] == "%":
        if amount > 100:
            raise ArgumentError(f"budget is {budget!r}, expected at most 100%")
        return "ratio", amount / 100
    return "bytes", amount * BYTE_UNITS[match[2]]
