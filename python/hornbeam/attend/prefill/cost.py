"""What sparse attention of a prompt costs beside dense attention: constants, so that no clock decides a text.

The unit is what torch's causal attention takes for one pair of a row and a key that the row may see. In it, a
sparse layer takes the products that choosing looks at, and the pairs that it reads.
"""

from __future__ import annotations

from dataclasses import dataclass

from hornbeam.errors import ArgumentError

__all__ = ["STANDARD", "CostModel"]


@dataclass(frozen=True)
class CostModel:
    """Where a layer of a prompt is better read densely. The answer follows from the lengths and from what is
    chosen, never from a clock or from calls before: a prompt is read alike on a busy machine and on an idle
    one. ``hornbeam bench attend_prefill --only rates`` measures the constants; the defaults are rounded from
    an AMD EPYC, 2 cores, float32.

    Args:
        look: of a row and a key that choosing looks at.
        pair: of a pair that is read, where the rows begin with the text.
        pair_behind: of a pair that is read behind a prefix, whose pages dense attention reads with the same
            products.
        share: of the pairs, those that a layer is expected to read before it has chosen, 0 to 1.
        margin: how many times as fast sparse attention must be expected to be.

    Raises:
        ArgumentError: a number that is negative, or a share above 1.
    """

    look: float = 2.7
    pair: float = 0.85
    pair_behind: float = 1.0
    share: float = 0.5
    margin: float = 1.05

    def __post_init__(self) -> None:
        for name in ("look", "pair", "pair_behind", "share", "margin"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
                raise ArgumentError(f"{name} is {value!r}, expected a number of at least 0")
        if self.share > 1:
            raise ArgumentError(f"share is {self.share!r}, expected 0 to 1")

    def is_worth_a_look(self, num_rows: int, num_keys: int, looked_at: int, least: int) -> bool:
        """Whether choosing, and reading what a layer is expected to read, wins.

        Args:
            num_rows: rows of queries, the last ones of all positions.
            num_keys: positions.
            looked_at: products of a row and a key that choosing computes, of a head.
            least: pairs of a row and a key that a head reads at least.
        """
        every = num_rows * (num_keys - num_rows) + num_rows * (num_rows + 1) // 2
        read = max(self.share * every, least)
        cost = self.look * looked_at + self._pair(num_rows, num_keys) * read
        return cost * self.margin < every

    def wins(self, num_rows: int, num_keys: int, share_read: float) -> bool:
        """Whether reading wins, now that choosing is done.

        Args:
            num_rows: rows of queries, the last ones of all positions.
            num_keys: positions.
            share_read: pairs that were chosen over those that there are.
        """
        return self._pair(num_rows, num_keys) * share_read * self.margin < 1

    def _pair(self, num_rows: int, num_keys: int) -> float:
        return self.pair_behind if num_rows < num_keys else self.pair


STANDARD = CostModel()
"""What recipes decide by where nothing else is given."""
