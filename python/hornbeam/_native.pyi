"""Signatures of the native module, a section a binding file; checked with stubtest."""

from collections.abc import Sequence
from os import PathLike
from typing import Any, final

from numpy import bool_, int32
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

# --- spec: draft sources and stop rules

@final
class Signals:
    """What a draft source knows about its guesses, one item a token in each list; see docs/own_methods.md.

    Args:
        confidences: the source's own estimate, 0 to 1, that each token comes if those before it do.
        match_lengths: tokens of the text before each token, earlier guesses included, that stood at the place
            it was copied from; None (zeros) where the source does not match text.
        counts: how often that text was seen before; None (zeros) where it is not counted.
    """

    def __new__(
        cls,
        confidences: Sequence[float],
        match_lengths: Sequence[int] | None = None,
        counts: Sequence[int] | None = None,
    ) -> Signals: ...
    @property
    def match_lengths(self) -> list[int]:
        """In tokens; zeros where they were not given."""
    @property
    def counts(self) -> list[int]:
        """Occurrences; zeros where they were not given."""
    @property
    def confidences(self) -> list[float]:
        """Probabilities, 0 to 1."""
    def __len__(self) -> int: ...

@final
class Proposal:
    """A chain of guessed tokens with their signals."""

    @property
    def tokens(self) -> list[int]:
        """Token ids, the first one next."""
    @property
    def signals(self) -> Signals:
        """One item a token."""
    def __len__(self) -> int: ...

@final
class SuffixCorpus:
    """A suffix index over documents of token ids; see :func:`hornbeam.speculation.build_corpus`.

    Args:
        documents: token ids of each.
    """

    def __new__(cls, documents: Sequence[Sequence[int]]) -> SuffixCorpus: ...
    @staticmethod
    def from_words(words: Tensor) -> SuffixCorpus:
        """An index over the int32 words of a file, which it does not copy."""
    def save(self, path: str | PathLike[str]) -> None:
        """Writes a file; :func:`hornbeam.speculation.save_corpus` does so whole or not at all."""
    def check(self) -> None:
        """Compares everything with its checksum; raises ArgumentError where it differs."""
    @property
    def num_tokens(self) -> int:
        """Tokens of all documents, and a mark at the end of each."""
    @property
    def num_documents(self) -> int:
        """Documents."""
    @property
    def vocab_size(self) -> int:
        """The greatest token id, and 1."""
    @property
    def num_bytes(self) -> int:
        """Bytes of the index."""

@final
class SuffixCorpusBuilder:
    def __new__(cls) -> SuffixCorpusBuilder: ...
    def push(self, document: Sequence[int]) -> None: ...
    def finish(self) -> SuffixCorpus: ...
    @property
    def num_tokens(self) -> int: ...

@final
class TreeProposal:
    """A tree of guessed tokens with their signals, parents first."""

    @property
    def tokens(self) -> list[int]:
        """Token ids."""
    @property
    def parents(self) -> list[int]:
        """For each token the index of its parent, or -1 for a first token."""
    @property
    def signals(self) -> Signals:
        """One item a token."""
    def __len__(self) -> int: ...

@final
class SuffixDraft:
    def __new__(
        cls, tokens: Sequence[int], corpus: SuffixCorpus | None = None, min_match: int = 1
    ) -> SuffixDraft: ...
    def extend(self, tokens: Sequence[int]) -> None: ...
    def propose(self, pending: Sequence[int], max_length: int) -> Proposal: ...
    def fork(self) -> SuffixDraft: ...
    def propose_tree(
        self, pending: Sequence[int], max_tokens: int, max_depth: int, min_probability: float
    ) -> TreeProposal: ...
    @property
    def match_length(self) -> int: ...
    @property
    def num_tokens(self) -> int: ...
    @property
    def num_bytes(self) -> int: ...

@final
class NGramDraft:
    def __new__(
        cls, tokens: Sequence[int], min_ngram: int, max_ngram: int, stop_ids: Sequence[int]
    ) -> NGramDraft: ...
    def extend(self, tokens: Sequence[int]) -> None: ...
    def fork(self) -> NGramDraft: ...
    def propose(self, pending: Sequence[int], max_length: int) -> Proposal: ...
    @property
    def num_tokens(self) -> int: ...

@final
class CostCurve:
    """Seconds of a forward pass by its rows, as they were measured; it never falls."""

    def __new__(cls) -> CostCurve: ...
    def observe(self, rows: int, seconds: float) -> None:
        """Records that a step of so many rows took so many seconds; what is not positive is dropped."""
    def seconds(self, rows: int) -> float | None:
        """Seconds that a step of so many rows takes; None before the first observation."""
    def seconds_beside(self, rows: int, plain: int, other_rows: int) -> float | None:
        """Seconds that a step of so many rows takes where it stands beside ``other_rows`` of other requests,
        which are not charged; ``plain`` of the rows are there without a draft."""
    def points(self) -> list[tuple[float, float]]:
        """The (rows, seconds) that the curve runs through, rows ascending."""

@final
class Gain:
    def __new__(cls, curve: CostCurve, exploration: float, tolerance: float, memory: float) -> Gain: ...
    def see_others(self, sequences: int, rows: int) -> None: ...
    def choose(self, proposals: Sequence[Any]) -> list[int | list[int]]: ...
    def observe(
        self,
        proposals: Sequence[Any],
        chosen: Sequence[int | Sequence[int]],
        accepted: Sequence[int | Sequence[int]],
        next_tokens: Sequence[int] | None = None,
    ) -> None: ...
    def probabilities(self, proposal: Any) -> list[float]: ...

# --- build ---

__version__: str

def build_info() -> dict[str, Any]: ...

# ahead.rs

def prefetch(addresses: bytes) -> None: ...

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
    selection: Selection | None = None,
    stream_queries: int | None = None,
    batch_invariant: bool = False,
) -> None: ...
def block_sparse_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    blocks: Tensor,
    out: Tensor,
    lse: Tensor | None,
    scale: float | None,
    block_rows: int,
    block_keys: int,
    isa: str | None = None,
) -> None: ...
def instruction_sets() -> tuple[list[str], str]: ...

MASS_ONE: int
STREAM_QUERIES: int

def mass_columns(plan: Plan, rows: Any) -> list[tuple[int, int, int]]: ...
def attention_mass(
    q: Tensor,
    chunks: list[Tensor],
    plan: Plan,
    rows: Any,
    mass: Tensor,
    seen: Tensor | None,
    lse: Tensor | None,
    layer: int,
    num_kv_heads: int,
    scale: float | None,
    window: int | None,
    soft_cap: float | None,
    sinks: Tensor | None,
    isa: str | None = None,
) -> None: ...

# --- attend: which pages rows read

@final
class AttendRule:
    """How a row chooses the pages that it reads; a page is an entry of its plan.

    Always read, and counted in ``k``, ``floor`` and ``cap``: the pages with one of the first ``sinks``
    positions, those with one of the last ``window`` positions up to the row's own, and the page of the row's
    latest key.

    Args:
        estimate: ``"bounds"``, the greatest and the least element of each channel of a page's keys, by which
            the score of a page is at least that of each of its keys; or ``"mean"``, their mean.
        slack: for ``"bounds"``: what of the way from the middle of a page's bounds to the bound is scored, 0
            to 1; 1 where not given.
        group: ``"max"``, a kv head chooses once, by the greatest score of its query heads; ``"union"``, each
            query head for itself; ``"layer"``, a layer chooses once, by the sum of all scores.
        select: ``"topk"``, the ``k`` best or the best ``share``; ``"topp"``, the fewest whose estimated mass
            is at least ``p`` of the row's; ``"threshold"``, those whose mass is at least ``threshold`` of it;
            ``"elbow"``, those before the point of the curve of falling scores that lies farthest below its
            chord; ``"none"``, none beside those that are always read.
        k: pages, at least 1.
        share: of the row's pages, rounded up; above 0, at most 1.
        p: above 0, at most 1.
        floor: fewest pages that are read, where the row has as many.
        cap: most pages that are read, unless more are always read.
        threshold: above 0, at most 1.
        sinks: tokens.
        window: tokens.

    Raises:
        ArgumentError: an unknown word, a number out of range, or one that the selection does not know.
    """

    def __new__(
        cls,
        *,
        estimate: str,
        slack: float | None = None,
        group: str = "max",
        select: str,
        k: int | None = None,
        share: float | None = None,
        p: float | None = None,
        floor: int = 0,
        cap: int | None = None,
        threshold: float | None = None,
        sinks: int = 0,
        window: int = 0,
    ) -> AttendRule: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...

@final
class Selection:
    """The entries of a plan's prefix reads that a step's rows read in one layer, and who sees them."""

    @property
    def num_units(self) -> int:
        """Entries that are read, summed over kv heads."""
    @property
    def union_keys(self) -> int:
        """Keys of prefix reads that are read, summed over kv heads."""
    @property
    def plan_keys(self) -> int:
        """Keys of prefix reads that there are, summed over kv heads."""
    def mask(self, kv_head: int, member: int) -> NDArray[bool_]:
        """`[num_rows, num_entries]`: the entries of the plan that a row reads with query head ``member`` of a
        kv head. Entries of own reads are false."""

def select_pages(
    tree: Tree,
    q: Tensor,
    chunks: list[Tensor],
    plan: Plan,
    layer: int,
    num_kv_heads: int,
    scale: float | None,
    rules: list[tuple[int, int, AttendRule]],
    isa: str | None = None,
) -> Selection: ...

# --- parallel ---

def run_faulty_tasks(where_: str, num_tasks: int, faulty: int) -> int: ...
def split_threads(threads: int | None) -> bool: ...
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
    @staticmethod
    def from_words(words: Any) -> Plan: ...
    @property
    def words(self) -> NDArray[int32]: ...
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

def kept_plan(words: Tensor) -> Plan | None: ...

# --- rows ---

def write_rows(
    k: Tensor, v: Tensor, chunks: list[Tensor], plan: Plan, layer: int, num_kv_heads: int
) -> None: ...
def move_rows(chunks: list[Tensor], moves: ArrayLike) -> None: ...
def move_page_rows(chunks: list[Tensor], moves: ArrayLike) -> None: ...
def move_page_rows_at_once(chunks: list[Tensor], moves: ArrayLike) -> None: ...

# --- pages ---

def page_formats(chunk: Tensor) -> list[tuple[str, int]]: ...
def quantise_pages(chunks: list[Tensor], moves: ArrayLike, format: int, by_page: bool) -> None: ...
def condense_pages(
    chunks: list[Tensor], moves: ArrayLike, codes: list[tuple[int, NDArray[int32]]]
) -> None: ...

# --- tree ---

@final
class BranchHandle:
    @property
    def id(self) -> int: ...

@final
class Pin:
    def undo(self) -> None: ...

@final
class StepHandle:
    @property
    def is_open(self) -> bool: ...
    def commit(self, accepted: Any, chunks: list[Tensor] | None, is_moved: bool) -> None: ...
    def rollback(self) -> None: ...

@final
class Tree:
    def __new__(
        cls,
        num_planes: int,
        slabs_per_chunk: int,
        page_tokens: int,
        head_dim: int,
        dtype: str,
        max_chunks: int | None = None,
    ) -> Tree: ...
    def branch(self) -> BranchHandle: ...
    def fork(self, branch: int) -> BranchHandle: ...
    def release(self, branch: int, keep: bool) -> None: ...
    def drop_branch(self, branch: int, keep: bool) -> None: ...
    def is_open(self, branch: int) -> bool: ...
    def length(self, branch: int) -> int: ...
    def token_ids(self, branch: int) -> bytearray: ...
    def keys(self, branch: int, plane: int) -> NDArray[int32]: ...
    def path_nodes(self, branch: int) -> list[tuple[int, int, int, int, int]]: ...
    def pin(self, branch: int) -> Pin: ...
    def matching(self, tokens: Any, max_tokens: int | None = None) -> BranchHandle: ...
    def begin(
        self, requests: list[tuple[int, Any, Any]], owner: int, exact: list[bool], chunks: list[Tensor] | None
    ) -> int | tuple[StepHandle, Plan, bytearray, bytearray, list[bytearray]]: ...
    def recover(self, owner: int) -> None: ...
    def has_open_step(self) -> bool: ...
    def run_faulty_change(self) -> None: ...
    def make_moves(self, chunks: list[Tensor]) -> None: ...
    def next_moves(
        self,
    ) -> tuple[int, str, NDArray[int32], int, list[tuple[int, NDArray[int32]]]] | None: ...
    def confirm_moves(self, number: int) -> None: ...
    def compact(
        self,
        branch: int,
        node: int,
        keep: list[Any],
        digest: int,
        by_head: bool,
        chunks: list[Tensor] | None,
    ) -> int: ...
    def quantise(
        self,
        branch: int,
        node: int,
        codes: list[Any],
        partial: bool,
        digest: int,
        by_head: bool,
        chunks: list[Tensor] | None,
        report: bool,
    ) -> int | NDArray[int32]: ...
    def condense(
        self,
        branch: int,
        table: KeyTable,
        keep: list[Any],
        codes: list[Any] | None,
        digest: int,
        by_head: bool,
        chunks: list[Tensor] | None,
        report: bool,
    ) -> int | KeyTable | NDArray[int32]: ...
    def key_table(self, branch: int, in_step: bool) -> KeyTable: ...
    def pages_by_plane(self, branch: int) -> list[int]: ...
    def add_chunk(self, chunks: list[Tensor], chunk: Tensor) -> None: ...
    def trim(self, chunks: list[Tensor]) -> int: ...
    def clear(self) -> None: ...
    def invalidate(self) -> None: ...
    def rows_to_spare(self) -> int: ...
    def stats(self) -> dict[str, int]: ...
    def debug_check(self) -> None: ...
    def add_column(self, name: str, scope: str, element_bytes: int) -> None: ...
    def column(self, name: str, part: int) -> bytearray: ...
    def set_column(self, name: str, part: int, bytes: bytes) -> None: ...

# --- key_table

@final
class KeyTable:
    def __new__(cls, counts: ArrayLike, entries: ArrayLike) -> KeyTable: ...
    @property
    def counts(self) -> NDArray[int32]: ...
    @property
    def entries(self) -> NDArray[int32]: ...
    @property
    def is_even(self) -> bool: ...
    def pages_by_plane(self) -> list[int]: ...

def gather_rows(chunks: list[Tensor], table: KeyTable, keys: Tensor, values: Tensor) -> None: ...
def resident_plan(
    table: KeyTable, rows: ArrayLike, own_slots: ArrayLike | None = None
) -> tuple[Plan, NDArray[int32]]: ...

# --- registered ---

def registered_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor: ...
def registered_linear_out(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, out: Tensor) -> None: ...
def registered_topk(
    scores: Tensor, k: int, *, offsets: Tensor | None = None, sorted: bool = False, hint: Tensor | None = None
) -> tuple[Tensor, Tensor]: ...
def registered_topk_out(
    scores: Tensor,
    k: int,
    *,
    offsets: Tensor | None = None,
    sorted: bool = False,
    hint: Tensor | None = None,
    values: Tensor,
    indices: Tensor,
) -> None: ...
def registered_write_rows(
    k: Tensor, v: Tensor, chunks: Sequence[Tensor], plan: Tensor, layer: int, num_kv_heads: int
) -> None: ...
def registered_tree_attention(
    q: Tensor,
    chunks: Sequence[Tensor],
    plan: Tensor,
    layer: int,
    num_kv_heads: int,
    *,
    scale: float | None = None,
    window: int | None = None,
    soft_cap: float | None = None,
    sinks: Tensor | None = None,
    batch_invariant: bool = False,
) -> Tensor: ...
def registered_tree_attention_out(
    q: Tensor,
    chunks: Sequence[Tensor],
    plan: Tensor,
    layer: int,
    num_kv_heads: int,
    *,
    scale: float | None = None,
    window: int | None = None,
    soft_cap: float | None = None,
    sinks: Tensor | None = None,
    batch_invariant: bool = False,
    out: Tensor,
    lse: Tensor | None = None,
) -> None: ...

# --- linear
def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, out: Tensor | None = None) -> Tensor: ...

# --- topk
def topk(
    scores: Tensor,
    k: int,
    counts: Tensor | None,
    offsets: Tensor | None,
    sorted: bool,
    hint: Tensor | None,
    values: Tensor,
    indices: Tensor,
) -> None: ...
def plain_topk(
    scores: Tensor, k: int | Tensor, sorted: bool, out: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, Tensor] | None: ...
def topp_counts(
    weights: Tensor, offsets: Tensor | None, p: float, floor: int, cap: int | None, counts: Tensor
) -> None: ...
def block_topk(
    scores: Tensor,
    block: int,
    k: int,
    offsets: Tensor | None,
    sorted: bool,
    values: Tensor,
    indices: Tensor,
) -> None: ...
def product_key_topk(
    scores_a: Tensor,
    scores_b: Tensor,
    k: int,
    core: Tensor | None,
    sorted: bool,
    values: Tensor,
    indices: Tensor,
) -> None: ...

# --- verify ---

@final
class Warp:
    def __new__(
        cls,
        temperature: float,
        top_k: int | None,
        top_p: float | None,
        min_p: float | None,
        bias: list[tuple[int, float]],
        repetition_penalty: float | None,
        frequency_penalty: float | None,
        presence_penalty: float | None,
    ) -> Warp: ...

def tree_depth(parents: Tensor, offsets: Tensor) -> int: ...
def verify(
    draft_tokens: Tensor,
    draft_parents: Tensor,
    offsets: Tensor,
    target_logits: Tensor,
    draft_logits: Tensor | None,
    rule: str,
    epsilon: float,
    alpha: float,
    warps: list[Warp],
    draft_warps: list[Warp],
    seed: int,
    sequences: Tensor | None,
    positions: Tensor | None,
    histories: list[tuple[Tensor, Tensor]] | None,
    accepted: Tensor,
    num_accepted: Tensor,
    next_token: Tensor,
    reads: Tensor | None,
) -> None: ...
def law_weights(
    logits_rows: Tensor,
    warps: list[Warp],
    histories: Sequence[tuple[Sequence[int], Sequence[int]]] | None,
    weights: Tensor,
    totals: Tensor,
) -> None: ...
def draw(
    logits_rows: Tensor,
    noise: str,
    warps: list[Warp],
    seed: int,
    sequences: Sequence[int],
    positions: Sequence[int],
    nodes: Sequence[int],
    counts: Sequence[int],
    histories: Sequence[tuple[Sequence[int], Sequence[int]]] | None,
    limits: Sequence[float] | None,
) -> list[list[tuple[int, float, float]]]: ...

# --- cuda ---

SLOT_BITS: int

@final
class CudaPlan:
    def __new__(
        cls,
        plan: Plan,
        chunks: list[Tensor],
        num_heads: int,
        num_kv_heads: int,
        multiprocessors: int,
        num_rows: int | None = None,
        share: bool = True,
        blocks: int | None = None,
        least_tiles: int | None = None,
    ) -> CudaPlan: ...
    @property
    def words(self) -> bytes: ...
    def mass_segments(self, columns: list[tuple[int, int, int]]) -> bytes: ...
    @property
    def num_rows(self) -> int: ...
    @property
    def num_items(self) -> int: ...
    @property
    def num_merged_rows(self) -> int: ...
    @property
    def num_partial_rows(self) -> int: ...

@final
class CudaLane:
    def __new__(cls, library: str | None = None) -> CudaLane: ...
    @property
    def is_emulated(self) -> bool: ...
    @property
    def num_devices(self) -> int: ...
    def device(self, index: int) -> dict[str, Any]: ...
    def prepare(self, device: int) -> None: ...

def cuda_write_rows(
    lane: CudaLane, k: Tensor, v: Tensor, words: Tensor, chunk: Tensor, layer: int, num_kv_heads: int
) -> None: ...
def cuda_move_rows(
    lane: CudaLane,
    addresses: Tensor,
    moves: Tensor,
    chunk: Tensor,
    by_page: bool,
    made: tuple[Tree, int] | None = None,
) -> None: ...
def cuda_tree_attention(
    lane: CudaLane,
    q: Tensor,
    words: Tensor,
    chunk: Tensor,
    out: Tensor,
    lse: Tensor | None,
    workspace: Tensor,
    extent: tuple[int, int],
    partial_rows: int,
    layer: int,
    num_kv_heads: int,
    scale: float | None,
    window: int | None,
    soft_cap: float | None,
    sinks: Tensor | None,
) -> None: ...
def cuda_key_mass(
    lane: CudaLane,
    q: Tensor,
    words: Tensor,
    chunk: Tensor,
    rows: Tensor,
    segments: Tensor,
    stats: Tensor,
    mass: Tensor,
    seen: Tensor | None,
    lse: Tensor | None,
    layer: int,
    num_kv_heads: int,
    scale: float | None,
    window: int | None,
    soft_cap: float | None,
    sinks: Tensor | None,
) -> None: ...
def cuda_format_words(chunk: Tensor, format: int) -> list[int]: ...
def cuda_all_format_words(chunk: Tensor) -> list[int]: ...
def cuda_gather_rows(
    lane: CudaLane,
    addresses: Tensor,
    held: Tensor,
    formats: Tensor | None,
    keys: Tensor,
    values: Tensor,
    chunk: Tensor,
) -> None: ...
def cuda_put_rows(
    lane: CudaLane, addresses: Tensor, held: Tensor, keys: Tensor, values: Tensor, chunk: Tensor
) -> None: ...
def cuda_copy_rows(
    lane: CudaLane,
    addresses: tuple[Tensor, Tensor],
    moves: Tensor,
    chunk: Tensor,
    made: tuple[Tree, int] | None = None,
) -> None: ...
def cuda_merge_rows(
    lane: CudaLane,
    rows: tuple[Tensor, Tensor],
    kept: tuple[Tensor, Tensor, Tensor],
    asked: tuple[Tensor, Tensor, Tensor],
    rule: tuple[str, float],
    most: tuple[int, int],
    scratch: tuple[Tensor, Tensor, Tensor],
    out: tuple[Tensor, Tensor],
    weights: tuple[Tensor, Tensor, Tensor],
) -> None: ...
def cuda_select_keys(
    lane: CudaLane,
    scores: Tensor,
    begin: Tensor,
    budgets: Tensor,
    leaders: tuple[Tensor, Tensor] | None,
    protected: tuple[int, int, int],
    unit: int,
    kept: Tensor,
) -> None: ...
def cuda_compete_heads(
    lane: CudaLane,
    scores: Tensor,
    begin: Tensor,
    reserved: Tensor,
    rooms: Tensor,
    protected: tuple[int, int, int],
    counts: Tensor,
) -> None: ...
def cuda_column_sums(lane: CudaLane, scores: Tensor, begin: Tensor, sums: Tensor) -> None: ...
def cuda_score_rows(lane: CudaLane, rows: Tensor, rule: str, scores: Tensor) -> None: ...
def cuda_key_differences(
    lane: CudaLane,
    keys: Tensor,
    begin: Tensor,
    most: int,
    lengths: Tensor,
    anchors: Tensor,
    scores: Tensor,
) -> None: ...
def cuda_expected_scores(
    lane: CudaLane,
    rows: tuple[Tensor, Tensor],
    planes: tuple[Tensor, Tensor],
    expected: tuple[Tensor, Tensor],
    scratch: tuple[Tensor, Tensor],
    rule: tuple[float, float],
    most: int,
    scores: Tensor,
) -> None: ...
def cuda_plane_sums(lane: CudaLane, values: Tensor, begin: Tensor, sums: Tensor) -> None: ...
def cuda_encode_pages(
    lane: CudaLane,
    addresses: tuple[Tensor, Tensor],
    moves: Tensor,
    runs: Tensor,
    format: Tensor,
    fault: Tensor,
    chunk: Tensor,
    by_page: bool,
) -> None: ...
def cuda_sample(
    lane: CudaLane,
    logits: Tensor,
    tree: tuple[Tensor, Tensor] | None,
    sequences: Tensor | None,
    positions: Tensor | None,
    law: tuple[float, int | None, float | None, float | None],
    laws: Tensor | None,
    seed: int,
    tokens: Tensor,
    faults: Tensor,
    seeds: Tensor | None = None,
) -> None: ...
def cuda_follow(
    lane: CudaLane,
    draft_tokens: Tensor,
    parents: Tensor,
    offsets: Tensor,
    tokens: Tensor,
    faults: Tensor,
    accepted: Tensor,
    num_accepted: Tensor,
    next_token: Tensor,
    fault_rows: Tensor,
    captured: bool = False,
) -> None: ...
def cuda_commit_rows(
    lane: CudaLane,
    words: Tensor,
    order: Tensor,
    offsets: Tensor,
    accepted: Tensor,
    num_accepted: Tensor,
    chunk: Tensor,
) -> None: ...
def cuda_count(lane: CudaLane, tokens: Tensor, begins: Tensor, marks: Tensor) -> None: ...
def cuda_adjust(
    lane: CudaLane,
    logits: Tensor,
    tree: tuple[Tensor, Tensor, Tensor],
    marks: Tensor | None,
    penalties: Tensor,
    bias: Tensor,
    out: Tensor,
) -> None: ...
def cuda_ratio(
    lane: CudaLane,
    rule: str,
    tree: tuple[Tensor, Tensor, Tensor],
    counters: tuple[Tensor | None, Tensor | None],
    target: tuple[Tensor, Tensor, Tensor],
    draft: tuple[Tensor, Tensor, Tensor] | None,
    scratch: tuple[Tensor, Tensor],
    bounds: tuple[float, float],
    seed: int,
    out: tuple[Tensor, Tensor, Tensor, Tensor],
) -> None: ...
def cuda_pack_laws(warps: list[tuple[float, int | None, float | None, float | None]]) -> bytes: ...
def cuda_pack_penalties(
    warps: list[tuple[float, float, float, list[tuple[int, float]]]],
) -> tuple[bytes, bytes]: ...
def cuda_sizes() -> dict[str, int]: ...
def cuda_fault(told: int) -> tuple[int, str]: ...
def cuda_status() -> dict[str, Any]: ...

# --- keep ---

def keep_check(kind: str, factor: tuple[str, dict[str, Any]]) -> tuple[int, int, int, int]: ...
def keep_scores(
    score: tuple[str, dict[str, Any]],
    keys: Tensor,
    values: Tensor,
    queries: Tensor,
    scale: float,
    out: Tensor,
) -> None: ...
def keep_select(
    split: tuple[str, dict[str, Any]],
    scores: Tensor,
    counts: ArrayLike,
    positions: ArrayLike,
    total: int,
    protected: tuple[int, int, int],
    unit: int,
    budgets: Tensor,
    kept: Tensor,
) -> None: ...
def keep_scores_resident(
    score: tuple[str, dict[str, Any]],
    chunks: list[Tensor],
    table: KeyTable,
    queries: Tensor,
    rows: ArrayLike,
    masses: list[tuple[Tensor, NDArray[int32]]],
    num_seen: int,
    num_kv_heads: int,
    scale: float,
    out: Tensor,
    expected: tuple[Tensor, Tensor] | None = None,
) -> None: ...
def keep_rows(
    score: tuple[str, dict[str, Any]], num_tokens: int
) -> list[tuple[int | None, list[int] | None]]: ...
def keep_question(
    split: tuple[str, dict[str, Any]],
    counts: ArrayLike,
    total: int,
    protected: tuple[int, int, int],
) -> tuple[str, NDArray[int32], NDArray[int32], NDArray[int32]]: ...
def keep_answered(
    split: tuple[str, dict[str, Any]],
    counts: ArrayLike,
    total: int,
    protected: tuple[int, int, int],
    question: str,
    answer: ArrayLike,
    budgets: Tensor,
) -> None: ...
def keep_reduce(
    reduce: tuple[str, dict[str, Any]],
    keys: Tensor,
    values: Tensor,
    scores: Tensor,
    kept: Tensor,
    out_keys: Tensor,
    out_values: Tensor,
    targets: Tensor,
    weights: Tensor,
    own: Tensor,
) -> None: ...
def quantise(
    x: Tensor,
    bits: int,
    tokens: int,
    channels: int,
    codes: Tensor,
    params: Tensor,
    channel_scale: Tensor | None = None,
) -> None: ...
def dequantise(
    codes: Tensor,
    params: Tensor,
    bits: int,
    tokens: int,
    channels: int,
    out: Tensor,
    channel_scale: Tensor | None = None,
) -> None: ...

@final
class SearchPolicy:
    @staticmethod
    def independent(width: int, max_depth: int) -> SearchPolicy: ...
    @staticmethod
    def beam(width: int, max_depth: int, children: int) -> SearchPolicy: ...
    @staticmethod
    def subtrees(width: int, max_depth: int, children: int) -> SearchPolicy: ...
    @staticmethod
    def rebase(width: int, max_depth: int, temperature: float) -> SearchPolicy: ...
    @staticmethod
    def ets(
        width: int, max_depth: int, temperature: float, cost: float, coverage: float, distance: float
    ) -> SearchPolicy: ...
    @staticmethod
    def particles(width: int, max_depth: int, temperature: float, seed: int) -> SearchPolicy: ...
    @staticmethod
    def best_first(children: int, max_depth: int, cost: str, answers: int) -> SearchPolicy: ...
    @property
    def is_over(self) -> bool: ...
    def ask(self, most: int) -> list[tuple[int, int, int, int]]: ...
    def tell(
        self,
        trial: int,
        values: Sequence[float],
        finished: Sequence[bool],
        costs: Sequence[int] | None = None,
        steps: Sequence[Sequence[int]] | None = None,
        features: Sequence[Sequence[float]] | None = None,
    ) -> None: ...
    def live(self) -> list[bool]: ...
    def nodes(self) -> list[tuple[int, int, float, str]]: ...

def best_subtree(
    parents: Sequence[int], gains: Sequence[float], clusters: Sequence[int | None], bonuses: Sequence[float]
) -> tuple[float, list[bool]]: ...

@final
class Ledger:
    def __new__(cls, limits: Sequence[int | None]) -> Ledger: ...
    def open(self, parent: int, limits: Sequence[int | None]) -> int: ...
    def reserve(self, account: int, amounts: Sequence[int]) -> bool: ...
    def settle(self, account: int, reserved: Sequence[int], used: Sequence[int]) -> None: ...
    def spend(self, account: int, kind: int, amount: int) -> None: ...
    def release(self, account: int, bytes: int) -> None: ...
    def left(self, account: int, kind: int) -> int | None: ...
    def exhausted(self, account: int) -> str | None: ...
    def spent(self, account: int) -> list[int]: ...
    def peak_bytes(self, account: int) -> int: ...
    def reserved(self, account: int) -> list[int]: ...
