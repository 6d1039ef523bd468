"""Which targets can be reached from which numbers, exactly."""

from __future__ import annotations

from functools import lru_cache

from hornbeam.tasks.countdown.tokens import LARGEST

__all__ = ["reachable", "result_of"]


def result_of(left: int, sign: str, right: int) -> int | None:
    """What a step makes; None if that is no whole number from 1 to 99."""
    if sign == "/":
        result = left // right if right and left % right == 0 else 0
    else:
        result = left + right if sign == "+" else left - right if sign == "-" else left * right
    return result if 1 <= result <= LARGEST else None


@lru_cache(maxsize=1 << 18)
def reachable(numbers: tuple[int, ...], target: int) -> bool:
    """Whether steps lead from all of ``numbers`` to ``target``.

    Args:
        numbers: sorted.
        target: the last result.
    """
    if len(numbers) == 1:
        return numbers[0] == target
    for low in range(len(numbers)):
        for high in range(low + 1, len(numbers)):
            rest = [*numbers[:low], *numbers[low + 1 : high], *numbers[high + 1 :]]
            for sign in "+-*/":
                result = result_of(numbers[high], sign, numbers[low])
                if result is not None and reachable(tuple(sorted([*rest, result])), target):
                    return True
    return False
