"""The branches that a search holds, and the bytes of pages that they take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING

from hornbeam.engine.request import Request
from hornbeam.search.budget import Ledger
from hornbeam.search.path import Path

if TYPE_CHECKING:
    from hornbeam.cache.branch import Branch
    from hornbeam.cache.tree import PrefixTree
    from hornbeam.engine.engine import Engine

__all__ = ["SearchMemory", "bytes_of", "pages_below"]


class SearchMemory:
    """Branches by the number of their node, charged to the ledger of the search.

    Args:
        engine: whose pages they are.
        num_prompt: tokens of the prompt, whose pages do not count.
        ledger: of the search.
    """

    def __init__(self, engine: Engine, num_prompt: int, ledger: Ledger) -> None:
        self._engine = engine
        self._num_prompt = num_prompt
        self._ledger = ledger
        self._held: dict[int, Request] = {}

    def __contains__(self, node: object) -> bool:
        return node in self._held

    def __getitem__(self, node: int) -> Request:
        return self._held[node]

    def get(self, node: int) -> Request | None:
        """The branch of a node; None if it is not held."""
        return self._held.get(node)

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, nodes: Iterable[int], requests: Iterable[Request]) -> None:
        """Takes the branches of requests that have ended."""
        self._held.update(zip(nodes, requests, strict=True))

    def keep_only(self, live: Collection[int]) -> list[int]:
        """Gives back the pages of all others, and says which."""
        gone = [node for node in self._held if node not in live]
        self.give_back(gone)
        return gone

    def drop_outdated(self) -> None:
        """Gives back what the model computed before it changed, if it has."""
        changes = self._engine.changes_seen()
        self.give_back([node for node, one in self._held.items() if one.served_changes != changes])

    def give_back(self, nodes: Iterable[int], keep: bool = False) -> None:
        """Gives back the pages of these; with ``keep`` they stay cached until there is pressure."""
        self._engine.close_all([self._held.pop(node) for node in list(nodes)], keep=keep)
        self._ledger.release_bytes(max(self._ledger.kv_bytes_held - self.bytes(), 0))

    def close(self) -> None:
        """Lets go of everything; it stays cached until there is pressure."""
        self.give_back(self._held, keep=True)

    def bytes(self) -> int:
        """Of the pages below the prompt that all branches hold, each counted once."""
        pages: dict[int, int] = {}
        for request in self._held.values():
            pages.update(self._pages(request))
        return bytes_of(pages, self._engine.tree)

    def pages(self) -> dict[int, dict[int, int]]:
        """How many pages below the prompt each branch holds, by the tree's own nodes."""
        return {node: self._pages(request) for node, request in self._held.items()}

    def step_bytes(self, tokens: int) -> int:
        """Of the pages that a step of so many tokens takes at most: its own, a copy of its parent's last."""
        tree = self._engine.tree
        return (-(-tokens // tree.page_tokens) + 1) * tree.slab_bytes

    def path_bytes(self, path: Path) -> int:
        """Of the pages that a path takes at most if it is read anew: that of a prompt alone is one, which a
        child may have a copy of."""
        found, at = 0 if path.parent else self._engine.tree.slab_bytes, path
        while at.parent is not None:
            found += self.step_bytes(len(at.token_ids) - at.step)
            at = at.parent
        return found

    def make_room(self, needed: int, limit: int, paths: Mapping[int, Path], leaves: Collection[int]) -> None:
        """Gives back branches until ``needed`` bytes are free below ``limit``, or none is left but those of
        ``leaves``. First what nobody goes on from, then by rank of value times the pages to be computed
        anew: nodes in ``paths`` have values."""
        while self.bytes() + needed > limit:
            found = [node for node in self._held if node not in leaves]
            if not found:
                return
            sharers = Counter(number for request in self._held.values() for number in self._pages(request))
            ranked = sorted(found, key=lambda node: (self._value(paths, node), node))
            rank = {node: place + 1 for place, node in enumerate(ranked)}

            def loss(node: int, sharers: Counter[int] = sharers, rank: dict[int, int] = rank) -> int:
                pages = self._pages(self._held[node])
                return rank[node] * sum(count for number, count in pages.items() if sharers[number] == 1)

            # What frees nothing by itself is let go with the first that does.
            self.give_back([min(found, key=lambda node: (loss(node), node))])

    @staticmethod
    def _value(paths: Mapping[int, Path], node: int) -> float:
        value = paths[node].value if node in paths else None
        return float("-inf") if value is None else value

    def _pages(self, request: Request) -> dict[int, int]:
        return {} if request.is_closed else pages_below(request.branch, self._num_prompt)


#: Stands for the pages of a prompt itself among those of nodes.
PROMPT = -1


def pages_below(branch: Branch, num_prompt: int) -> dict[int, int]:
    """The pages that each node of a branch's path takes from the last token of the prompt on, by the number
    of the node. A token lies at its position in a page, whichever node it is of; what a node keeps that was
    reduced lies together. A node that ends with the prompt takes a page; of all these one is the prompt's
    own, :data:`PROMPT`."""
    if branch.is_closed:
        return {}
    page, begin = branch.tree.page_tokens, num_prompt - 1
    found = {}
    for number, start, count, keys, is_reduced in branch.nodes():
        end = start + count
        if is_reduced:
            found[number] = -(-keys // page)
        elif end > max(start, begin):
            found[number] = (end - 1) // page - max(start, begin) // page + 1
            if end == num_prompt:
                found[PROMPT] = -1
    return found


def bytes_of(pages: Mapping[int, int], tree: PrefixTree) -> int:
    """Bytes of the pages of nodes, :func:`pages_below`."""
    return sum(pages.values()) * tree.slab_bytes
