"""MInference: each head has one of three patterns, found beforehand and kept in a file."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from hornbeam.attend.prefill.base import BlockSelection, PrefillRecipe, check_shapes
from hornbeam.attend.prefill.lines import Grid, LastRows, first_lines, greatest
from hornbeam.attend.prefill.pooled import block_means, pooled_probabilities, widened
from hornbeam.errors import ArgumentError
from hornbeam.integers import whole_number

__all__ = ["HeadPattern", "HeadPatterns", "MInference"]

#: What a file of patterns says of itself.
FORMAT, VERSION = "hornbeam.attend.prefill.HeadPatterns", 1


@dataclass(frozen=True)
class HeadPattern:
    """The pattern of one head, with two sizes.

    Args:
        kind: ``"stream"`` (the paper's A-shape): the first `first` keys, and the last `second` of each row;
            ``"vertical_slash"``: the `first` vertical and `second` slash lines of most attention under the
            last rows; ``"block_sparse"``: for each block of rows the `first` blocks of keys whose mean meets
            the rows' mean best.
        first: see there.
        second: see there; 0 for blocks.

    Raises:
        ArgumentError: a kind that is none of the three, or a size out of range.
    """

    kind: str
    first: int
    second: int = 0

    KINDS: ClassVar[tuple[str, ...]] = ("stream", "vertical_slash", "block_sparse")

    def __post_init__(self) -> None:
        if self.kind not in self.KINDS:
            raise ArgumentError(f"kind is {self.kind!r}, expected one of {', '.join(self.KINDS)}")
        whole_number(self.first, "first", 1)
        is_blocks = self.kind == "block_sparse"
        whole_number(self.second, "second", 0 if is_blocks else 1, 0 if is_blocks else None)


#: Of a head that no file names.
DEFAULT_PATTERN = HeadPattern("vertical_slash", 1000, 6096)


@dataclass(frozen=True)
class HeadPatterns:
    """The patterns of a model's heads.

    Args:
        layers: of each layer, and there of each query head. Layers and heads that are not there have the
            default of the released code, 1,000 vertical and 6,096 slash lines.
    """

    layers: tuple[tuple[HeadPattern, ...], ...] = ()

    def of(self, layer: int, head: int) -> HeadPattern:
        """The pattern of a head.

        Args:
            layer: which layer.
            head: which query head.
        """
        if layer < len(self.layers) and head < len(self.layers[layer]):
            return self.layers[layer][head]
        return DEFAULT_PATTERN

    def save(self, file: str | Path) -> None:
        """Writes them as JSON.

        Args:
            file: where to; what is there is replaced.
        """
        layers = [[[head.kind, head.first, head.second] for head in layer] for layer in self.layers]
        text = json.dumps({"format": FORMAT, "version": VERSION, "layers": layers}, indent=1)
        Path(file).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, file: str | Path) -> HeadPatterns:
        """Reads what :meth:`save` wrote.

        Args:
            file: where from.

        Raises:
            ArgumentError: the file holds something else.
        """
        try:
            held: Any = json.loads(Path(file).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ArgumentError(f"{file} is not JSON: {error}") from error
        if not isinstance(held, dict) or held.get("format") != FORMAT:
            raise ArgumentError(f"{file} holds no patterns of heads, expected the format {FORMAT}")
        if held.get("version") != VERSION:
            raise ArgumentError(f"{file} has version {held.get('version')!r}, expected {VERSION}")
        try:
            layers = tuple(tuple(HeadPattern(*head) for head in layer) for layer in held["layers"])
        except (KeyError, TypeError) as error:
            raise ArgumentError(
                f"{file} has a head that is no pattern, expected [kind, first, second]: {error}"
            ) from error
        return cls(layers)


@dataclass(frozen=True)
class MInference(PrefillRecipe):
    """MInference 1.0 (Jiang et al., NeurIPS 2024, arXiv 2407.02490): the pattern of each head is found
    beforehand (:func:`hornbeam.attend.search_patterns`), its lines or blocks on the prompt at hand.

    Vertical and slash lines are those of most attention under the last `last_rows` rows. As in the released
    code the first `forced_verticals` and the nearest `forced_slashes` lines are always among them, and count.
    A head of blocks always reads the first and the diagonal block, so that every row sees itself; the release
    forces neither. Counts above the length of the prompt are the length.

    Args:
        patterns: of each head.
        last_rows: rows whose attention is looked at.
        forced_verticals: keys from the start that are always read.
        forced_slashes: distances from 0 on that are always read.
        block: rows of a block of queries, and keys of a block of keys.
        block_keys: keys that are read together in a pattern of lines; a divisor of `block`.

    Raises:
        ArgumentError: a value outside of its range.
    """

    patterns: HeadPatterns = field(default_factory=HeadPatterns)
    last_rows: int = 64
    forced_verticals: int = 30
    forced_slashes: int = 100
    block: int = 64
    block_keys: int = 16

    def __post_init__(self) -> None:
        if not isinstance(self.patterns, HeadPatterns):
            raise ArgumentError(f"patterns is {self.patterns!r}, expected hornbeam.attend.HeadPatterns")
        whole_number(self.last_rows, "last_rows", 1)
        whole_number(self.forced_verticals, "forced_verticals")
        whole_number(self.forced_slashes, "forced_slashes", 1)
        whole_number(self.block, "block", 1, 1024)
        whole_number(self.block_keys, "block_keys", 1, self.block)
        if self.block % self.block_keys:
            raise ArgumentError(f"block_keys is {self.block_keys}, expected a divisor of block, {self.block}")

    @property
    def name(self) -> str:
        """What messages and pages call it."""
        return "minference"

    @property
    def dense_keys(self) -> int:
        """Prompts of up to so many positions are read densely."""
        return max(2 * self.block, self.forced_slashes)

    def looked_at(self, num_rows: int, num_keys: int) -> int:
        """Products of each head that choosing computes: of the last rows with all keys.

        Args:
            num_rows: rows of queries, the last ones of all positions.
            num_keys: positions.
        """
        return min(self.last_rows, num_rows) * num_keys

    def grid(self, num_rows: int, num_keys: int) -> Grid:
        """The blocks that a prompt is cut into.

        Args:
            num_rows: rows of queries.
            num_keys: positions.
        """
        return Grid(num_rows, num_keys, self.block, self.block_keys)

    def least(self, grid: Grid) -> Tensor:
        """The diagonal: blocks as few as any head reads.

        Args:
            grid: the blocks of the prompt.
        """
        return grid.crossed(*first_lines(grid.num_keys, 1, 1))

    def plan(self, layer: int, query: Tensor, key: Tensor, scale: float) -> BlockSelection:
        """What each query head reads; see :meth:`PrefillRecipe.plan`.

        Args:
            layer: whose patterns are used.
            query: `[H, N, D]`.
            key: `[Hk, M, D]`.
            scale: factor of the scores.
        """
        patterns = [self.patterns.of(layer, head) for head in range(query.shape[0])]
        return self.plan_of(patterns, query, key, scale)

    def plan_of(
        self, patterns: list[HeadPattern], query: Tensor, key: Tensor, scale: float
    ) -> BlockSelection:
        """What each query head reads where it has a given pattern.

        Args:
            patterns: of each query head.
            query: `[H, N, D]`.
            key: `[Hk, M, D]`.
            scale: factor of the scores.
        """
        check_shapes(query, key)
        heads, kv_heads = query.shape[0], key.shape[0]
        grid = self.grid(query.shape[1], key.shape[1])
        blocks = torch.zeros(heads, *grid.causal().shape, dtype=torch.bool, device="cpu")
        masses: list[float | None] = []
        for head, pattern in enumerate(patterns):
            plane = key[head * kv_heads // heads]
            find = self._blocks if pattern.kind == "block_sparse" else self._lines
            blocks[head], mass = find(grid, pattern, query[head], plane, scale)
            masses.append(mass)
        return BlockSelection(grid, blocks, tuple(pattern.kind for pattern in patterns), tuple(masses))

    def _lines(
        self, grid: Grid, pattern: HeadPattern, query: Tensor, key: Tensor, scale: float
    ) -> tuple[Tensor, float | None]:
        """The blocks of a stream or of lines, and the mass that the lines hold at least."""
        if pattern.kind == "stream":
            return grid.crossed(*first_lines(grid.num_keys, pattern.first, pattern.second)), None
        rows = LastRows(min(self.last_rows, grid.num_rows), grid.num_keys)
        masses = rows.masses(query, key, scale)
        forced = first_lines(grid.num_keys, self.forced_verticals, self.forced_slashes)
        lines = []
        for mass, always, count in zip(masses, forced, (pattern.first, pattern.second), strict=True):
            ranked = mass.masked_fill(always, torch.inf)
            lines.append(greatest(ranked, max(count, int(always.sum()))))
        held = [float(mass[line].sum()) for mass, line in zip(masses, lines, strict=True)]
        return grid.crossed(*lines), max(held)

    def _blocks(
        self, grid: Grid, pattern: HeadPattern, query: Tensor, key: Tensor, scale: float
    ) -> tuple[Tensor, float | None]:
        """The blocks of most pooled attention, and the share of it that they hold."""
        wide = Grid(grid.num_rows, grid.num_keys, self.block, self.block)
        means = block_means(query, self.block), block_means(key, self.block)
        pooled = pooled_probabilities(wide, *means, scale)
        always = wide.crossed(*first_lines(wide.num_keys, 1, 1))
        ranked = pooled.masked_fill(always, torch.inf)
        count = min(pattern.first, pooled.shape[1])
        best = ranked.sort(dim=1, descending=True, stable=True).indices[:, :count]
        chosen = torch.zeros_like(always).scatter_(1, best, torch.ones_like(best, dtype=torch.bool))
        chosen &= wide.causal()
        held = float((pooled * chosen).sum() / pooled.shape[0])
        return widened(chosen, self.block // self.block_keys, grid.causal().shape[1]) & grid.causal(), held
