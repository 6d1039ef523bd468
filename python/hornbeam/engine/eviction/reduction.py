"""From scores to pages: what a plane keeps, in which format, and the version of the branch that shows it."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from hornbeam import cuda, ops
from hornbeam.cuda.merge import merge_pages, merges
from hornbeam.errors import ArgumentError
from hornbeam.keep.budget import parse, resolve
from hornbeam.keep.rotate import inverse_frequencies, turn

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hornbeam.cache.key_table import KeyTable
    from hornbeam.engine.eviction.scoring import Scoring
    from hornbeam.engine.eviction.state import State
    from hornbeam.engine.request import Request
    from hornbeam.engine.requests import Requests
    from hornbeam.keep.recipe import Recipe

__all__ = ["Reduction"]

#: What makes a version inexact, for the tree: no two prefixes with it are ever matched.
INEXACT = 1


class Reduction:
    """The budget, split and reduction of one recipe."""

    def __init__(self, engine: Requests, recipe: Recipe) -> None:
        self.engine = engine
        self.tree = engine.tree
        self.recipe = recipe
        self.stores_codes = recipe.reduce.stores_codes
        #: Number and tokens of a page of each format that the recipe asks for.
        self.formats: list[tuple[int, int]] = []
        if self.stores_codes:
            self.formats = [self._format(name) for name in recipe.reduce.formats]
            if recipe.rerotate:
                raise ArgumentError(
                    "rerotate is True and keys go into codes, which cannot be turned, expected one of them"
                )

    def _format(self, name: str) -> tuple[int, int]:
        known = self.tree.page_formats()
        if name not in known or known[name][1] == 0:
            fit = ", ".join(known_name for known_name, (_, tokens) in known.items() if tokens)
            raise ArgumentError(
                f"recipe {self.recipe.name} stores pages in {name}, expected one that a page of "
                f"{self.tree.page_tokens} tokens of {self.tree.head_dim} elements holds: {fit}"
            )
        return known[name]

    def run(
        self, sequence: Request, state: State, scoring: Scoring, table: KeyTable
    ) -> list[NDArray[np.int32]] | None:
        """Reduces the branch of a sequence, which shows the keys of ``table``; returns the positions that
        each plane shows then, or None where nothing was to be done."""
        branch, tree, recipe = sequence.branch, self.tree, self.recipe
        total = self._total(branch.length)
        if total >= len(table) and not (self.stores_codes and self._fills_a_page(table)):
            return None
        state.grow(table, branch.length)
        scores = scoring.scores(sequence, state, table)
        kept, numbers = self._chosen(scores, table, total)
        if kept is None:
            return None
        planes = [part.nonzero().flatten() for part in torch.split(kept, table.counts.tolist())]
        before = table.num_pages
        chunk_pages = tree.slabs_per_chunk * tree.num_planes
        merged = self._merged(table, scores, planes)
        formats: Any = None
        if numbers is not None:
            cuts = np.cumsum([len(plane) for plane in planes])[:-1]
            formats = np.split(numbers[kept.numpy()], cuts)
        indices = [plane.to(torch.int32) for plane in planes]
        now = tree.condense(branch, indices, digest=INEXACT, formats=formats, table=table)
        if scoring.adds_mass:
            state.mass = state.mass[kept.nonzero().flatten().to(tree.device)]
        else:
            state.mass = torch.zeros(int(kept.sum()), dtype=torch.int64, device=tree.device)
        if merged is not None or recipe.rerotate:
            self._rewrite(branch.length, state, kept, table, now, merged)
        _record(sequence, before, int(kept.sum()))
        # The pool shrinks, unless it would grow again at once.
        if self.engine.graphs is None and before - now.num_pages >= 2 * chunk_pages:
            tree.trim()
        return now.split(now.positions)

    # -- budget ----------------------------------------------------------------------------------

    @property
    def _max_pages(self) -> int | None:
        """The pages of a budget in bytes."""
        kind, amount = parse(self.recipe.budget)
        return int(amount) // (self.tree.slab_bytes // self.tree.num_planes) if kind == "bytes" else None

    def _total(self, num_tokens: int) -> int:
        """Keys over all planes that the budget allows; with codes, a budget in bytes is counted later."""
        tree, pages = self.tree, self._max_pages
        if pages is not None and self.stores_codes:
            return num_tokens * tree.num_planes
        if pages is not None:
            # Pages are what is allocated: every plane may leave one partly empty.
            return max((pages - tree.num_planes) * tree.page_tokens, 0) + min(pages, tree.num_planes)
        return resolve(self.recipe.budget, num_tokens=num_tokens, num_planes=tree.num_planes, token_bytes=0)

    def _fills_a_page(self, table: KeyTable) -> bool:
        """Whether plain keys may fill a page in codes, or a budget in bytes may be passed."""
        pages = self._max_pages
        most = np.bincount(table.plane_of[table.formats == 0], minlength=1).max()
        if most >= min(tokens for _, tokens in self.formats):
            return True
        if pages is None:
            return False
        return self._pages(table, np.ones(len(table), bool), np.zeros(len(table), int)) > pages

    def _chosen(
        self, scores: Tensor, table: KeyTable, total: int
    ) -> tuple[Tensor | None, NDArray[np.uint8] | None]:
        """A mask of what stays and, with codes, the number of the format of each key; no mask where all
        stays as it is."""
        if not self.stores_codes:
            return self._selected(scores, table, total), None
        kept = self._selected(scores, table, min(total, len(table)))
        worth = scores.cpu()  # formats are chosen on the host
        numbers = self._numbers(worth, table, kept)
        limit = self._max_pages
        if limit is not None and self._pages(table, kept.numpy(), numbers) > limit:
            # The most keys whose pages fit: `low` fits, `high` does not.
            low, high = 0, len(table)
            kept = self._selected(scores, table, 0)
            numbers = np.zeros(len(table), np.uint8)
            while high - low > max(len(table) >> 10, 1):
                middle = (low + high) // 2
                tried = self._selected(scores, table, middle)
                wanted = self._numbers(worth, table, tried)
                if self._pages(table, tried.numpy(), wanted) <= limit:
                    low, kept, numbers = middle, tried, wanted
                else:
                    high = middle
        unchanged = bool(kept.all()) and not any(
            (np.bincount(table.plane_of[numbers == number], minlength=1) >= tokens).any()
            for number, tokens in self.formats
        )
        return (None if unchanged else kept), numbers

    def _selected(self, scores: Tensor, table: KeyTable, total: int) -> Tensor:
        tree, score = self.tree, self.recipe.score
        scores = scores.to(tree.device)  # those of Python come from the host
        counts = table.counts.reshape(tree.num_physical_layers, tree.num_kv_heads)
        positions = np.ascontiguousarray(table.positions)
        rule = total, score.protected, score.unit
        return self.recipe.split.select_resident(scores, counts, positions, *rule)[1].cpu()

    # -- formats ---------------------------------------------------------------------------------

    def _numbers(self, scores: Tensor, table: KeyTable, kept: Tensor) -> NDArray[np.uint8]:
        """The number of the format that each kept key shall have; 0 for plain, and for what is in codes."""
        own = np.array([number for number, _ in self.formats] + [0], np.uint8)  # the last one is -1's
        now = table.formats
        # The last class: codes of a format that the recipe does not ask for.
        class_of = np.full(int(now.max(initial=0)) + 1, len(self.formats))
        class_of[0] = -1
        for index, (number, _) in enumerate(self.formats):
            class_of[number : number + 1] = index
        classes = class_of[now]
        numbers = np.zeros(len(table), np.uint8)
        for begin, end in pairwise(table.offsets):
            at = begin + np.flatnonzero(kept[begin:end].numpy())
            wanted = self.recipe.reduce.classes(scores[at], torch.from_numpy(classes[at])).numpy()
            numbers[at] = np.where(classes[at] < 0, own[wanted], 0)
        return numbers

    def _pages(self, table: KeyTable, kept: NDArray[np.bool_], numbers: NDArray[Any]) -> int:
        """Pages of the version that shows what is kept. A page in codes stays while it shows one key."""
        planes, coded, num_planes = table.plane_of, table.formats != 0, len(table.counts)
        pages = len(np.unique(table.entries[kept & coded, 0]))
        fresh = kept & ~coded
        plain = np.bincount(planes[fresh], minlength=num_planes)
        for number, tokens in self.formats:
            whole = np.bincount(planes[fresh & (numbers == number)], minlength=num_planes) // tokens
            pages += int(whole.sum())
            plain -= whole * tokens
        return pages + int((-(-plain // self.tree.page_tokens)).sum())

    # -- merged and turned keys ------------------------------------------------------------------

    def _merged(self, table: KeyTable, scores: Tensor, planes: list[Tensor]) -> tuple[Tensor, Tensor] | None:
        """Keys and values of the kept slots, where the reduction changes them in place."""
        if not self.recipe.reduce.changes_kept:
            return None
        if cuda.is_on_device(self.tree.chunks[0]) and merges(self.recipe.reduce):
            rows = self.tree.chunks, table.counts, table.entries
            return merge_pages(self.recipe.reduce, *rows, scores.cpu(), planes)
        keys, values = table.gather(self.tree.chunks)
        parts = zip(
            *(torch.split(x, table.counts.tolist()) for x in (keys, values, scores)), planes, strict=True
        )
        done = [self.recipe.reduce.evaluate(k, v, s, plane) for k, v, s, plane in parts]
        return torch.cat([part.keys for part in done]), torch.cat([part.values for part in done])

    def _rewrite(
        self,
        length: int,
        state: State,
        kept: Tensor,
        old: KeyTable,
        now: KeyTable,
        merged: tuple[Tensor, Tensor] | None,
    ) -> None:
        """Writes merged and turned keys to the new version's pages, which only its branch of so many tokens
        reads."""
        if merged is not None:
            keys, values = merged
        elif cuda.is_on_device(self.tree.chunks[0]):
            keys, values = cuda.gather_rows(self.tree.chunks, now.entries)
        else:
            keys, values = now.gather(self.tree.chunks)
        if self.recipe.rerotate:
            before = old.positions if state.rotated is None else state.rotated
            # The newest key lies one before the next token, the others follow without a gap.
            target = np.concatenate(
                [np.arange(length - n, length, dtype=np.int32) for n in now.counts.tolist()]
            )
            frequencies = inverse_frequencies(self.engine.model)
            assert frequencies is not None
            keys = turn(keys, torch.from_numpy(target - before[kept.numpy()]), frequencies)
            state.rotated = target
        ops.put_rows(self.tree.chunks, now.entries, keys, values)


def _record(sequence: Request, pages_before: int, keys: int) -> None:
    """Notes that the branch of a sequence was reduced to so many keys over all planes."""
    tree, stats = sequence.engine.tree, sequence.stats
    stats.reductions += 1
    stats.kv_bytes_before = pages_before * (tree.slab_bytes // tree.num_planes)
    stats.kv_bytes = int(sequence.branch.bytes_by_head().sum())
    stats.kept_share = keys / (sequence.branch.length * tree.num_planes)
    sequence.engine.freed_bytes += max(stats.kv_bytes_before - stats.kv_bytes, 0)
