"""The CUDA lane: the operations of :mod:`hornbeam.ops` on tensors of a device.

``hornbeam.ops`` comes here by itself when its tensors are on a GPU. What is here beside that:
:func:`status`, and :class:`DevicePlan` for callers that keep a plan's buffer, as graph capture needs.
Kernels run on torch's current stream; nothing is allocated or waited for within a launch.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hornbeam import _native
from hornbeam.errors import ArgumentError, LogitsError, ShapeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hornbeam._native import CudaLane, Plan
    from hornbeam.warp import Warp

__all__ = ["DevicePlan", "status"]

_FAULTS = {1: "NaN", 2: "+inf", 3: "-inf only"}
_lane: CudaLane | None = None


def status() -> dict[str, Any]:
    """Whether kernels can run here, and if not why.

    ``available``; ``reason``, empty when available; ``kernels``, what was built; ``devices``, their
    names and compute capabilities.
    """
    return dict(_native.cuda_status())


def lane() -> CudaLane:
    """The process's CUDA driver, opened once.

    Raises:
        CudaError: no driver, one that is too old, no device, or a build without kernels.
    """
    global _lane
    if _lane is None:
        _lane = _native.CudaLane()
    return _lane


def _index(device: torch.device) -> int:
    if device.type == "cpu":  # the host emulation's only device
        return 0
    return torch.cuda.current_device() if device.index is None else device.index


class DevicePlan:
    """A step's plan in one device buffer, with the work list of tree attention and its workspace.

    Args:
        plan: the step's plan.
        chunks: the pool, tensors on one device.
        num_heads: query heads.
        num_kv_heads: key-value heads of a layer.
        buffer: int32, takes the words where given, so that a captured graph finds the next step's
            plan where the last one was; a new tensor otherwise.

    Attributes:
        words: the buffer.
        workspace: float32, for the partial results of rows that several pieces of work share.
        extent: (items, merged rows) to launch for.
    """

    def __init__(
        self,
        plan: Plan,
        chunks: list[Tensor],
        *,
        num_heads: int,
        num_kv_heads: int,
        buffer: Tensor | None = None,
    ) -> None:
        self.plan = plan
        self.chunk = chunks[0]
        device = self.chunk.device
        facts = lane().device(_index(device))
        packed = _native.CudaPlan(plan, chunks, num_heads, num_kv_heads, facts["multiprocessors"])
        host = torch.frombuffer(bytearray(packed.words), dtype=torch.int32)
        if buffer is None:
            self.words = host.to(device)
        elif len(buffer) < len(host):
            raise ShapeError(f"buffer is of {len(buffer)} words, expected at least {len(host)}")
        else:
            buffer[: len(host)].copy_(host)
            self.words = buffer
        self.extent = (packed.num_items, packed.num_merged_rows)
        self.partial_rows = packed.num_partial_rows
        head_dim = self.chunk.shape[4]
        size = packed.num_partial_rows * num_heads * (head_dim + 2)
        self.workspace = torch.empty(size, dtype=torch.float32, device=device)


#: Plans of the last steps: every layer of a step asks for the same one.
_plans: OrderedDict[tuple[int, ...], tuple[DevicePlan, list[Tensor]]] = OrderedDict()
_MOST_PLANS = 4
#: Query heads last seen with a number of kv heads: rows are written before the first query comes.
_num_heads: dict[int, int] = {}


def _device_plan(plan: Plan, chunks: list[Tensor], num_kv_heads: int, num_heads: int | None) -> DevicePlan:
    if num_heads is None:
        num_heads = _num_heads.get(num_kv_heads, num_kv_heads)
    _num_heads[num_kv_heads] = num_heads
    key = (id(plan), num_heads, num_kv_heads, *(chunk.data_ptr() for chunk in chunks))
    found = _plans.get(key)
    if found is None:
        # The entry holds the plan and the chunks, so that no other object takes their addresses.
        made = DevicePlan(plan, chunks, num_heads=num_heads, num_kv_heads=num_kv_heads)
        found = _plans[key] = (made, list(chunks))
        while len(_plans) > _MOST_PLANS:
            _plans.popitem(last=False)
    return found[0]


def write_rows(
    k: Tensor, v: Tensor, chunks: list[Tensor], plan: Plan, *, layer: int, num_kv_heads: int
) -> None:
    """See :func:`hornbeam.ops.write_rows`."""
    driver = lane()
    if k.shape[0] != plan.num_rows:
        raise ShapeError(f"k is of {k.shape[0]} rows, expected the plan's {plan.num_rows}")
    words = _device_plan(plan, chunks, num_kv_heads, None).words
    driver.write_rows(k, v, words, chunks[0], layer, num_kv_heads)


def move_rows(chunks: list[Tensor], moves: NDArray, *, by_page: bool) -> None:
    """See :func:`hornbeam.ops.move_rows` and :func:`hornbeam.ops.move_page_rows`."""
    driver = lane()
    device = chunks[0].device
    places = len(chunks) * chunks[0].shape[1] * (chunks[0].shape[0] if by_page else 1)
    limits = torch.tensor([places, chunks[0].shape[3]] * 2)
    table = torch.as_tensor(moves, dtype=torch.int32)
    if bool(((table < 0) | (table >= limits)).any()):
        raise ArgumentError(f"a move is outside of the pool, expected columns below {limits.tolist()}")
    addresses = torch.tensor([chunk.data_ptr() for chunk in chunks], dtype=torch.int64)
    driver.move_rows(addresses.to(device), table.contiguous().to(device), chunks[0], by_page)


def tree_attention(
    q: Tensor,
    chunks: list[Tensor],
    plan: Plan,
    out: Tensor,
    *,
    layer: int,
    num_kv_heads: int,
    scale: float | None = None,
    window: int | None = None,
    soft_cap: float | None = None,
    sinks: Tensor | None = None,
    lse: Tensor | None = None,
) -> None:
    """See :func:`hornbeam.ops.tree_attention`."""
    driver = lane()
    if q.shape[0] != plan.num_rows:
        raise ShapeError(f"q is of {q.shape[0]} rows, expected the plan's {plan.num_rows}")
    packed = _device_plan(plan, chunks, num_kv_heads, q.shape[1])
    driver.tree_attention(
        q,
        packed.words,
        packed.chunk,
        out,
        lse,
        packed.workspace,
        packed.extent,
        packed.partial_rows,
        layer,
        num_kv_heads,
        scale,
        window,
        soft_cap,
        sinks,
    )


def _law(warp: Warp) -> tuple[float, int | None, float | None, float | None]:
    penalties = (warp.repetition_penalty, warp.frequency_penalty, warp.presence_penalty)
    if warp.bias or any(penalty is not None for penalty in penalties):
        raise ArgumentError(f"warp is {warp}, expected no bias and no penalties: the CUDA lane lacks them")
    return warp.temperature, warp.top_k, warp.top_p, warp.min_p


def _packed_laws(warps: Sequence[Warp], device: torch.device) -> Tensor:
    """uint8 `[len(warps), 32]`, as `Law` of cuda/include/decide.cuh lays one out."""
    data = bytearray()
    for temperature, top_k, top_p, min_p in map(_law, warps):
        greedy = temperature == 0
        scale = 1.0 if greedy else 1.0 / temperature
        mass = top_p if top_p is not None and top_p < 1 else 0.0
        data += struct.pack("<fiiidd", scale, greedy, top_k or 0, 0, mass, min_p or 0.0)
    return torch.frombuffer(data, dtype=torch.uint8).view(-1, 32).to(device)


def _counters(values: Tensor | None, device: torch.device) -> Tensor | None:
    return None if values is None else values.to(device=device, dtype=torch.int64).contiguous()


def verify(
    draft_tokens: Tensor,
    draft_parents: Tensor,
    offsets: Tensor,
    logits: Tensor,
    *,
    warp: Warp | Sequence[Warp],
    seed: int,
    sequences: Tensor | None,
    positions: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Greedy and coupled verification: the fields of :class:`hornbeam.ops.Verified`.

    All rows are sampled at once, from raw logits, then every tree is walked. Trees may lie on the
    host or on the device; on the host they are checked and their depth is known without waiting.
    Reads one number a sequence back, to raise for a row that is no distribution.
    """
    driver = lane()
    device = logits.device
    one, many = (warp[0] if len(warp) == 1 else None, warp) if isinstance(warp, Sequence) else (warp, ())
    law = (0.0, None, None, None) if one is None else _law(one)
    laws = None if one is not None else _packed_laws(many, device)
    if positions is None and any(w.temperature != 0 for w in (many if one is None else [one])):
        raise ArgumentError("positions is None, expected one a sequence, since the warp samples")
    depth = _native.tree_depth(draft_parents.cpu(), offsets.cpu())
    tokens, parents, begins = draft_tokens.to(device), draft_parents.to(device), offsets.to(device)
    batch, num_rows = offsets.shape[0] - 1, logits.shape[0]

    def empty(*shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=device)

    sampled, faults = empty(num_rows), empty(num_rows)
    sequences, positions = _counters(sequences, device), _counters(positions, device)
    tree = (parents, begins)
    _native.cuda_sample(driver, logits, tree, sequences, positions, law, laws, seed, sampled, faults)
    accepted, num_accepted = empty(batch, depth), empty(batch)
    next_token, fault_rows = empty(batch, dtype=torch.int64), empty(batch)
    _native.cuda_follow(
        driver, tokens, parents, begins, sampled, faults, accepted, num_accepted, next_token, fault_rows
    )
    for sequence, fault in enumerate(fault_rows.tolist()):
        if fault:
            got = _FAULTS[fault % 4]
            raise LogitsError(
                f"logits of sequence {sequence}, row {fault // 4} contain {got}, "
                "expected finite values or -inf"
            )
    return accepted, num_accepted, next_token
