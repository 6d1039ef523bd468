"""Signatures of the native module, a section a binding file; checked with stubtest."""

from collections.abc import Sequence
from numpy import int32
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from typing import Any, final

# --- spec: draft sources and stop rules

@final
class Signals:
    def __new__(
        cls,
        confidences: Sequence[float],
        match_lengths: Sequence[int] | None = None,
        counts: Sequence[int] | None = None,
    ) -> Signals: ...
    @property
    def match_lengths(self) -> list[int]: ...
    @property
    def counts(self) -> list[int]: ...
    @property
    def confidences(self) -> list[float]: ...
    def __len__(self) -> int: ...

@final
class Proposal:
    @property
    def tokens(self) -> list[int]: ...
    @property
    def signals(self) -> Signals: ...
    def __len__(self) -> int: ...

@final
class SuffixCorpus:
    def __new__(cls, documents: Sequence[Sequence[int]]) -> SuffixCorpus: ...
    @property
    def num_tokens(self) -> int: ...
    @property
    def num_bytes(self) -> int: ...

@final
class SuffixDraft:
    def __new__(
        cls, tokens: Sequence[int], corpus: SuffixCorpus | None = None, min_match: int = 1
    ) -> SuffixDraft: ...
    def extend(self, tokens: Sequence[int]) -> None: ...
    def propose(self, pending: Sequence[int], max_length: int) -> Proposal: ...
    @property
    def match_length(self) -> int: ...
    @property
    def num_tokens(self) -> int: ...
    @property
    def num_bytes(self) -> int: ...

@final
class CostCurve:
    def __new__(cls) -> CostCurve: ...
    def observe(self, rows: int, seconds: float) -> None: ...
    def seconds(self, rows: int) -> float | None: ...
    def points(self) -> list[tuple[float, float]]: ...

@final
class Gain:
    def __new__(cls, curve: CostCurve, exploration: float, tolerance: float, memory: float) -> Gain: ...
    def choose(self, proposals: Sequence[Any]) -> list[int]: ...
    def observe(
        self,
        proposals: Sequence[Any],
        lengths: Sequence[int],
        accepted: Sequence[int],
        next_tokens: Sequence[int] | None = None,
    ) -> None: ...
    def probabilities(self, proposal: Any) -> list[float]: ...

# --- build ---

__version__: str

def build_info() -> dict[str, Any]: ...

# --- attention ---

def tree_attention(
    q: Tensor,
    chunks: list[Tensor],
    plan: Plan,
    out: Tensor,
    lse: Tensor | None,
    layer: int,
    num_kv_heads: int,
    scale: float | None,
    window: int | None,
    soft_cap: float | None,
    sinks: Tensor | None,
    isa: str | None = None,
) -> None: ...
def instruction_sets() -> tuple[list[str], str]: ...

# --- parallel ---

def thread_pool() -> tuple[str, int]: ...

# --- plan ---

@final
class Plan:
    def __new__(
        cls,
        entries: Any,
        positions: Any,
        head_ranges: Any,
        reads: Any,
        row_positions: Any,
        row_end: Any,
        row_slots: Any,
    ) -> Plan: ...
    @property
    def num_rows(self) -> int: ...
    @property
    def entries(self) -> NDArray[int32]: ...
    @property
    def positions(self) -> NDArray[int32]: ...
    @property
    def head_ranges(self) -> NDArray[int32]: ...
    @property
    def reads(self) -> NDArray[int32]: ...
    @property
    def row_positions(self) -> NDArray[int32]: ...
    @property
    def row_end(self) -> NDArray[int32]: ...
    @property
    def row_slots(self) -> NDArray[int32]: ...

# --- rows ---

def write_rows(
    k: Tensor, v: Tensor, chunks: list[Tensor], plan: Plan, layer: int, num_kv_heads: int
) -> None: ...
def move_rows(chunks: list[Tensor], moves: ArrayLike) -> None: ...
def move_page_rows(chunks: list[Tensor], moves: ArrayLike) -> None: ...
