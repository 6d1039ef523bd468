"""Verification against transformers and against vectorised PyTorch of the same law.

    hornbeam bench spec_verify [--quick] [--json FILE]

Before timing, both sides are held to the same greedy outcome, and to the same acceptance on many small
random drafts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import hornbeam as hb
from hornbeam.bench import harness


def compare(ours: Callable[[], Any], theirs: Callable[[], Any], rounds: int) -> harness.Ratio:
    """Theirs over ours, in alternation."""

    def untold(call: Callable[[], Any]) -> Callable[[], None]:
        def timed() -> None:
            call()

        return timed

    seconds = harness.alternate({"ours": untold(ours), "theirs": untold(theirs)}, rounds)
    return harness.ratio(seconds["ours"], seconds["theirs"])


def cut(logits: Tensor, temperature: float, top_p: float | None) -> Tensor:
    """Softmax after temperature and top-p, by sorting, over the last dimension."""
    probs = torch.softmax(logits.float() / temperature, -1)
    if top_p is None:
        return probs
    ordered, index = probs.sort(-1, descending=True)
    ordered[ordered.cumsum(-1) - ordered >= top_p] = 0
    probs = torch.zeros_like(probs).scatter_(-1, index, ordered)
    return probs / probs.sum(-1, keepdim=True)


def torch_chain(
    tokens: Tensor, target: Tensor, draft: Tensor, temperature: float, top_p: float | None
) -> tuple[Tensor, Tensor]:
    """The chain rule over [B, K] drafts, without a loop; the residual of the last row alone."""
    batch, length = tokens.shape
    p, q = cut(target, temperature, top_p), cut(draft, temperature, top_p)
    px = p[:, :length].gather(2, tokens[..., None])[..., 0]
    qx = q.gather(2, tokens[..., None])[..., 0]
    kept = torch.rand(batch, length) * qx < px
    count = kept.long().cumprod(1).sum(1)
    rows = torch.arange(batch)
    last = p[rows, count]
    refused = q[rows, count.clamp(max=length - 1)] * (count < length)[:, None]
    residual = (last - refused).clamp(min=0)
    residual = torch.where(residual.sum(1, keepdim=True) > 0, residual, last)
    return count, torch.multinomial(residual, 1)[:, 0]


def torch_tree(tokens: list[int], parents: list[int], target: Tensor, draft: Tensor) -> tuple[int, int]:
    """Recursive rejection without replacement (Sequoia), on probabilities of all nodes."""
    p_all, q_all = torch.softmax(target.float(), -1), torch.softmax(draft.float(), -1)
    row = accepted = 0
    while True:
        p, q = p_all[row], q_all[row]
        below = [i for i, parent in enumerate(parents) if parent == row - 1]
        for i in below:
            if torch.rand(()) * q[tokens[i]] < p[tokens[i]]:
                row, accepted = i + 1, accepted + 1
                break
            p = (p - q).clamp(min=0)
            p = p / p.sum()
            q = q.clone()
            q[tokens[i]] = 0
            q = q / q.sum()
        else:
            return accepted, int(torch.multinomial(p, 1))


def laws(rows: int, vocabulary: int, seed: int = 0, closeness: float = 0.5) -> tuple[Tensor, Tensor]:
    """bf16 logits of a target and of a draft that knows it well; peaked as those of language models."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randn(rows, vocabulary, generator=generator) * 2.5
    # A few tokens stand out in each row.
    best = torch.randint(vocabulary, (rows, 8), generator=generator)
    target.scatter_add_(1, best, torch.arange(16, 8, -1.0).expand(rows, 8))
    draft = target + torch.randn(rows, vocabulary, generator=generator) * closeness
    return target.bfloat16(), draft.bfloat16()


def chain_arguments(tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    batch, length = tokens.shape
    parents = torch.arange(-1, length - 1, dtype=torch.int32).repeat(batch)
    return tokens.reshape(-1), parents, torch.arange(0, batch * length + 1, length, dtype=torch.int32)


def verify_chain(
    tokens: Tensor, target: Tensor, draft: Tensor, warp: hb.Warp, position: int
) -> hb.ops.Verified:
    """``target`` is [B, K + 1, V], ``draft`` [B, K + 1, V] (its last row is not read)."""
    return hb.ops.verify(
        *chain_arguments(tokens),
        target.flatten(0, 1),
        draft.flatten(0, 1),
        rule="chain",
        warp=warp,
        draft_warp=warp,
        positions=torch.full((tokens.shape[0],), position),
    )


def check_law() -> None:
    """Same greedy outcome, and the same mean acceptance within five standard errors."""
    target, draft = laws(4, 64, closeness=1.5)
    batch = 20_000
    for top_p in (None, 0.9):
        q = cut(draft[:3], 0.8, top_p)
        torch.manual_seed(1)
        tokens = torch.multinomial(q, batch, replacement=True).T.contiguous()
        big, small = (x[None].expand(batch, 4, 64).contiguous() for x in (target, draft))
        ours = verify_chain(tokens, big, small, hb.Warp(0.8, top_p=top_p), 0).num_accepted.double()
        theirs = torch_chain(tokens, big, small[:, :3], 0.8, top_p)[0].double()
        error = ((ours.var() + theirs.var()) / batch).sqrt()
        assert abs(ours.mean() - theirs.mean()) < 5 * error, (ours.mean(), theirs.mean())
    greedy = verify_chain(target.argmax(-1)[None, :3], target[None], draft[None], hb.Warp(0), 0)
    assert greedy.num_accepted.item() == 3
    assert greedy.next_token.item() == target[3].argmax()


def against_transformers(vocabulary: int, rounds: int) -> harness.Ratio:
    """1 x 8 rows at T = 0.8, top-p 0.95: `_speculative_sampling` with its processors."""
    from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper
    from transformers.generation.utils import _speculative_sampling

    length = 7
    target, draft = (x.float() for x in laws(length + 1, vocabulary))
    processors = LogitsProcessorList([TemperatureLogitsWarper(0.8), TopPLogitsWarper(0.95)])
    warp = hb.Warp(0.8, top_p=0.95)
    torch.manual_seed(0)
    q = processors(None, draft[:length].clone())
    tokens = torch.multinomial(torch.softmax(q, -1), 1).T.contiguous()
    ids = torch.cat([torch.zeros(1, 16, dtype=torch.int64), tokens], 1)

    def theirs() -> Any:
        # As `_assisted_decoding`: the draft's logits come processed, the target's are processed here.
        logits = target.clone()[None]
        for row in range(length + 1):
            logits[:, row] = processors(ids[:, : 16 + row], logits[:, row])
        return _speculative_sampling(ids, q[None], length, logits, False)

    counter = iter(range(10**9))
    return compare(
        lambda: verify_chain(tokens, target[None], draft[None], warp, next(counter)), theirs, rounds
    )


def reads_of(tokens: Tensor, target: Tensor, draft: Tensor, warp: hb.Warp) -> dict[str, float]:
    """Bytes of logits that are read over those that the walks need: a row of the target at every node visited
    and one of the draft where a token is tried; and passes over a row, the first of which reads memory."""
    reads = hb.ops.Reads()
    batch, length = tokens.shape
    verified = hb.ops.verify(
        *chain_arguments(tokens),
        target.flatten(0, 1),
        draft.flatten(0, 1),
        rule="chain",
        warp=warp,
        draft_warp=warp,
        positions=torch.zeros(batch, dtype=torch.int64),
        reads=reads,
    )
    needed = int((verified.num_accepted + 1).sum() + (verified.num_accepted + 1).clamp(max=length).sum())
    rows = reads.target_rows + reads.draft_rows
    return {"bytes_over_needed": rows / needed, "passes": reads.elements / (rows * target.shape[-1])}


def batched(batch: int, length: int, vocabulary: int, top_p: float | None, rounds: int) -> dict[str, Any]:
    """B chains against the same rule in vectorised PyTorch."""
    target, draft = (x.view(batch, length + 1, vocabulary) for x in laws(batch * (length + 1), vocabulary))
    torch.manual_seed(0)
    q = cut(draft[:, :length], 0.8, top_p).flatten(0, 1)
    tokens = torch.multinomial(q, 1).view(batch, length)
    del q
    warp, counter, short = hb.Warp(0.8, top_p=top_p), iter(range(10**9)), draft[:, :length]
    case = compare(
        lambda: verify_chain(tokens, target, draft, warp, next(counter)),
        lambda: torch_chain(tokens, target, short, 0.8, top_p),
        rounds,
    )
    accepted = verify_chain(tokens, target, draft, warp, 0).num_accepted.float().mean().item()
    return {"ratio": case, "mean_accepted": accepted, **reads_of(tokens, target, draft, warp)}


def tree(vocabulary: int, rounds: int) -> harness.Ratio:
    """A tree of 64 nodes (4 children, then 2 a node) at T = 1, against the same rule in PyTorch."""
    target, draft = laws(65, vocabulary, closeness=1.0)
    parents = [-1] * 4 + [(i - 4) // 2 for i in range(4, 64)]
    q = torch.softmax(draft.float(), -1)
    torch.manual_seed(0)
    tokens = [0] * 64
    for row in range(65):
        below = [i for i, parent in enumerate(parents) if parent == row - 1]
        if below:
            drawn = torch.multinomial(q[row], len(below))
            for i, token in zip(below, drawn.tolist(), strict=True):
                tokens[i] = token
    arguments = (
        torch.tensor(tokens),
        torch.tensor(parents, dtype=torch.int32),
        torch.tensor([0, 64], dtype=torch.int32),
        target,
        draft,
    )
    counter = iter(range(10**9))
    return compare(
        lambda: hb.ops.verify(*arguments, positions=torch.tensor([next(counter)])),
        lambda: torch_tree(tokens, parents, target, draft),
        rounds,
    )


def run(quick: bool) -> dict[str, Any]:
    """All cases; `quick` takes smaller batches and fewer rounds."""
    check_law()
    rounds = 7 if quick else 15
    batch = 8 if quick else 32
    return {
        "threads": torch.get_num_threads(),
        "transformers, 1 x 8 x 49152, T 0.8, top-p 0.95": against_transformers(49_152, rounds),
        f"torch, {batch} x chain 8 x 151936, T 0.8": batched(batch, 8, 151_936, None, rounds),
        f"torch, {batch} x chain 8 x 151936, T 0.8, top-p 0.95": batched(batch, 8, 151_936, 0.95, 7),
        "torch, tree of 64 x 128256, T 1": tree(128_256, rounds),
    }
