"""Signatures of the native module, by part; checked with stubtest."""

from typing import Any, final

from numpy import int32
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

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
