"""The rows of one forward pass over a prefix tree, until a commit says which of them stay."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from hornbeam.cache.branch import Branch, int64
from hornbeam.cuda import upload

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hornbeam._native import Plan, StepHandle
    from hornbeam.cache.tree import PrefixTree

__all__ = ["Step"]


class Step:
    """The rows of one forward pass. A context manager: leaving it without :meth:`commit` rolls back.

    ``plan`` says what each row sees and where it is written; rows are in depth-first order of the
    tree, a request's rows are consecutive.
    """

    __slots__ = ("_handle", "_positions", "_rows", "_token_ids", "_tree", "branches", "is_chain", "plan")

    def __init__(self, tree: PrefixTree, branches: list[Branch], opened: Any, is_chain: bool) -> None:
        #: Whether there is one request, whose rows are a chain.
        self.is_chain = is_chain
        self._tree = tree
        #: The branches that the rows extend, in the order of the requests.
        self.branches = branches
        self.plan: Plan
        # The handle rolls the step back when it goes.
        self._handle: StepHandle
        self._handle, self.plan, self._token_ids, self._positions, self._rows = opened

    @property
    def is_dense(self) -> bool:
        """Whether the rows are one chain without a prefix: plain causal attention over the rows alone."""
        return self.is_chain and self.branches[0].length == 0

    @property
    def page_tokens(self) -> int:
        """Slots of a page."""
        return self._tree.page_tokens

    @property
    def num_rows(self) -> int:
        """Rows of the step."""
        return self.plan.num_rows

    @property
    def token_ids(self) -> Tensor:
        """int64 `[num_rows]` in row order, on the tree's device."""
        return upload([self.host_token_ids], self._tree.device)[0]

    @property
    def positions(self) -> Tensor:
        """Logical positions, int64 `[num_rows]` in row order, on the tree's device."""
        return upload([self.host_positions], self._tree.device)[0]

    @property
    def host_token_ids(self) -> Tensor:
        """As :attr:`token_ids`, on the CPU."""
        return int64(self._token_ids)

    @property
    def host_positions(self) -> Tensor:
        """As :attr:`positions`, on the CPU."""
        return int64(self._positions)

    @property
    def rows(self) -> list[NDArray[np.int64]]:
        """``rows[r][i]`` is the row of request ``r``'s token ``i``."""
        return [np.frombuffer(rows, dtype=np.int64) for rows in self._rows]

    @property
    def is_open(self) -> bool:
        """Whether neither commit nor rollback has ended the step."""
        return self._handle.is_open

    def commit(self, accepted: Sequence[Iterable[int] | Tensor], *, is_moved: bool = False) -> None:
        """Keep the accepted rows and free the rest; ends the step.

        Args:
            accepted: per request, indices within the request along a path from the branch's end;
                empty accepts nothing.
            is_moved: the accepted rows lie behind the branches' ends already, as a captured step leaves
                them (:mod:`hornbeam.engine.graphs`).

        Raises:
            ArgumentError: the indices are not such a path; the step is still open.
            StateError: the step has ended.
        """
        paths = [p if isinstance(p, (list, tuple, Tensor, np.ndarray)) else list(p) for p in accepted]
        self._handle.commit(paths, self._tree._host_chunks, is_moved)
        self._tree._make_moves_on_device()

    def rollback(self) -> None:
        """Keep nothing; ends the step. Does nothing when it has ended."""
        self._handle.rollback()

    def __enter__(self) -> Step:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.rollback()
