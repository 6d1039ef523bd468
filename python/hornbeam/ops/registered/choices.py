"""The greatest of rows, and what a target keeps of drafts, as torch knows them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hornbeam import _native
from hornbeam.ops.registered.library import Operator, new_size, nothing, side_by_side, unit_last
from hornbeam.ops.registered.words import histories_of, warps_of
from hornbeam.ops.topk import block_topk, product_key_topk, topk, topp
from hornbeam.ops.verify import probabilities, sample, verify

__all__ = ["OPERATORS"]

Pair = tuple[Tensor, Tensor]

_KEYS = (
    "SymInt seed=0, Tensor? sequences=None, Tensor? positions=None, "
    "Tensor? history=None, Tensor? history_offsets=None"
)
_VERIFY = (
    "Tensor draft_tokens, Tensor draft_parents, Tensor offsets, Tensor target_logits, "
    "Tensor? draft_logits=None, *, str rule='coupled', Tensor? warp=None, Tensor? draft_warp=None, "
    f"{_KEYS}, float epsilon=0.3, float alpha=0.09"
)


def _topk_out(scores: Tensor, k: Any, *, values: Tensor, indices: Tensor, **options: Any) -> None:
    topk(scores, k, out=(values, indices), **options)


def _rows(scores: Tensor, offsets: Tensor | None) -> tuple[Any, ...]:
    """What comes before the last size of the answer."""
    return tuple(scores.shape[:-1]) if offsets is None else (offsets.shape[0] - 1,)


def _pair(scores: Tensor, *shape: Any) -> Pair:
    return scores.new_empty(shape), scores.new_empty(shape, dtype=torch.int64)


def _fake_topk(scores: Tensor, k: Any, *, offsets: Tensor | None = None, **options: Any) -> Pair:
    return _pair(scores, *_rows(scores, offsets), k)


def _fake_topk_by_row(scores: Tensor, k: Tensor, *, offsets: Tensor | None = None, **options: Any) -> Pair:
    return _pair(scores, *_rows(scores, offsets), new_size())


def _fake_topp(weights: Tensor, p: float, *, offsets: Tensor | None = None, **options: Any) -> Pair:
    return _pair(weights, *_rows(weights, offsets), new_size())


def _fake_product_key(
    scores_a: Tensor, scores_b: Tensor, k: int, *, core: Tensor | None = None, sorted: bool = False
) -> Pair:
    shape = (*scores_a.shape[: -1 if core is None else -2], k)
    return scores_a.new_empty(shape, dtype=torch.float32), scores_a.new_empty(shape, dtype=torch.int64)


def _fake_block_topk(
    scores: Tensor, block: int, k: int, *, offsets: Tensor | None = None, **options: Any
) -> Pair:
    return _pair(scores, *_rows(scores, offsets), k)


def _keyed(
    seed: int,
    sequences: Tensor | None,
    positions: Tensor | None,
    history: Tensor | None,
    history_offsets: Tensor | None,
) -> dict[str, Any]:
    """What the noise and the penalties of a draw depend on."""
    return {
        # torch's integers have a sign: a seed from 2**63 on comes as the negative number of the same bits.
        "seed": seed % (1 << 64),
        "sequences": side_by_side(sequences),
        "positions": side_by_side(positions),
        "history": histories_of(history, history_offsets),
    }


def _verify(
    draft_tokens: Tensor,
    draft_parents: Tensor,
    offsets: Tensor,
    target_logits: Tensor,
    draft_logits: Tensor | None = None,
    *,
    rule: str = "coupled",
    warp: Tensor | None = None,
    draft_warp: Tensor | None = None,
    seed: int = 0,
    sequences: Tensor | None = None,
    positions: Tensor | None = None,
    history: Tensor | None = None,
    history_offsets: Tensor | None = None,
    epsilon: float = 0.3,
    alpha: float = 0.09,
) -> tuple[Tensor, Tensor, Tensor]:
    accepted, num_accepted, next_token = verify(
        draft_tokens.contiguous(),
        draft_parents.contiguous(),
        offsets.contiguous(),
        unit_last(target_logits),
        None if draft_logits is None else unit_last(draft_logits),
        rule=rule,
        warp=warps_of(warp),
        draft_warp=warps_of(draft_warp),
        **_keyed(seed, sequences, positions, history, history_offsets),
        epsilon=epsilon,
        alpha=alpha,
    )
    return accepted, num_accepted, next_token


def _fake_verify(
    draft_tokens: Tensor,
    draft_parents: Tensor,
    offsets: Tensor,
    target_logits: Tensor,
    draft_logits: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    batch = offsets.shape[0] - 1
    return (
        target_logits.new_empty((batch, new_size()), dtype=torch.int32),
        target_logits.new_empty(batch, dtype=torch.int32),
        target_logits.new_empty(batch, dtype=torch.int64),
    )


def _sample(
    logits: Tensor,
    warp: Tensor | None = None,
    *,
    seed: int = 0,
    sequences: Tensor | None = None,
    positions: Tensor | None = None,
    history: Tensor | None = None,
    history_offsets: Tensor | None = None,
) -> Tensor:
    keyed = _keyed(seed, sequences, positions, history, history_offsets)
    return sample(unit_last(logits), warps_of(warp), **keyed)


def _fake_sample(logits: Tensor, warp: Tensor | None = None, **options: Any) -> Tensor:
    return logits.new_empty(logits.shape[0], dtype=torch.int64)


def _probabilities(
    logits: Tensor,
    warp: Tensor | None = None,
    *,
    history: Tensor | None = None,
    history_offsets: Tensor | None = None,
) -> Tensor:
    past = histories_of(history, history_offsets)
    return probabilities(unit_last(logits), warps_of(warp), history=past)


def _fake_probabilities(logits: Tensor, warp: Tensor | None = None, **options: Any) -> Tensor:
    return torch.empty(logits.shape, dtype=torch.float64, device="cpu")


_RAGGED = "Tensor? offsets=None, bool sorted=False"

OPERATORS = [
    Operator(
        f"topk(Tensor scores, SymInt k, *, {_RAGGED}, Tensor? hint=None) -> (Tensor, Tensor)",
        topk,
        _fake_topk,
        _native.registered_topk,
    ),
    Operator(
        f"topk_out(Tensor scores, SymInt k, *, {_RAGGED}, Tensor? hint=None, "
        "Tensor(a!) values, Tensor(b!) indices) -> ()",
        _topk_out,
        nothing,
        _native.registered_topk_out,
    ),
    Operator(
        f"topk_by_row(Tensor scores, Tensor k, *, {_RAGGED}, Tensor? hint=None) -> (Tensor, Tensor)",
        topk,
        _fake_topk_by_row,
    ),
    Operator(
        f"topp(Tensor weights, float p, *, SymInt floor=0, SymInt? cap=None, {_RAGGED}) -> (Tensor, Tensor)",
        topp,
        _fake_topp,
    ),
    Operator(
        "product_key_topk(Tensor scores_a, Tensor scores_b, SymInt k, *, Tensor? core=None, "
        "bool sorted=False) -> (Tensor, Tensor)",
        product_key_topk,
        _fake_product_key,
    ),
    Operator(
        f"block_topk(Tensor scores, SymInt block, SymInt k, *, {_RAGGED}) -> (Tensor, Tensor)",
        block_topk,
        _fake_block_topk,
    ),
    Operator(f"verify({_VERIFY}) -> (Tensor, Tensor, Tensor)", _verify, _fake_verify),
    Operator(f"sample(Tensor logits, Tensor? warp=None, *, {_KEYS}) -> Tensor", _sample, _fake_sample),
    Operator(
        "probabilities(Tensor logits, Tensor? warp=None, *, Tensor? history=None, "
        "Tensor? history_offsets=None) -> Tensor",
        _probabilities,
        _fake_probabilities,
    ),
]
