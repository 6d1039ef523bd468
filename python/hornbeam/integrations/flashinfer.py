"""FlashInfer's verification of chains, by its signature (``flashinfer.sampling``, 0.7)."""

from __future__ import annotations

import torch
from torch import Tensor

from hornbeam.errors import ArgumentError, ShapeError
from hornbeam.integrations.chains import check, check_tokens, count_accepted, draw, residual

__all__ = ["chain_speculative_sampling"]

Key = int | Tensor | None


def chain_speculative_sampling(
    draft_probs: Tensor,
    draft_token_ids: Tensor,
    target_probs: Tensor,
    maybe_output_accepted_token_num: Tensor | None = None,
    maybe_output_emitted_draft_token_num: Tensor | None = None,
    deterministic: bool = True,
    generator: torch.Generator | None = None,
    seed: Key = None,
    offset: Key = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Speculative sampling of chains (Chen et al. 2023); exact if the drafts were drawn from ``draft_probs``.

    Differs from FlashInfer in the random numbers themselves, and in two defects: an empty residual draws
    from the target instead of an undefined id, and a tensor of seeds gives each row a stream of its own,
    wherever it stands in the batch.

    Args:
        draft_probs: ``[B, K, V]``, normalised.
        draft_token_ids: ``[B, K]`` int32 or int64.
        target_probs: ``[B, K + 1, V]``, normalised.
        maybe_output_accepted_token_num: int32 ``[B]``; the counts are *added* to it.
        maybe_output_emitted_draft_token_num: likewise.
        deterministic: taken and ignored: the result never depends on a reduction's order.
        generator: torch's global one by default.
        seed, offset: in its place: an integer, or a tensor ``[1]`` or ``[B]``.

    Returns:
        ``output_token_ids`` int32 ``[B, K + 1]``, padded with -1; ``output_accepted_token_num``, which
        counts tokens that pass on their own, also after one that failed; and
        ``output_emitted_draft_token_num``, the drafted tokens in the output.

    Raises:
        ShapeError: shapes, dtypes or devices that do not fit.
        ArgumentError: a token id out of range, a row without mass, or only one of seed and offset.
    """
    check("draft_probs", draft_probs, (None, None, None))
    batch, length, vocab = draft_probs.shape
    check("draft_token_ids", draft_token_ids, (batch, length))
    check("target_probs", target_probs, (batch, length + 1, vocab))
    check_tokens("draft_token_ids", draft_token_ids, vocab)
    counts = []
    for name, given in (
        ("maybe_output_accepted_token_num", maybe_output_accepted_token_num),
        ("maybe_output_emitted_draft_token_num", maybe_output_emitted_draft_token_num),
    ):
        if given is not None:
            check(name, given, (batch,), torch.int32)
        counts.append(draft_probs.new_zeros(batch, dtype=torch.int32) if given is None else given)
    generators = _generators(batch, draft_probs.device, generator, seed, offset)

    tokens = draft_token_ids.long()
    uniforms = torch.stack([torch.rand(length, generator=g, device=draft_probs.device) for g in generators])
    p = target_probs[:, :length].gather(2, tokens[..., None])[..., 0].float()
    q = draft_probs.gather(2, tokens[..., None])[..., 0].float()
    emitted = count_accepted(p, q, uniforms)
    rows = torch.arange(batch, device=tokens.device)
    last = target_probs[rows, emitted].float()
    if length > 0:
        refused = draft_probs[rows, emitted.clamp(max=length - 1)].float()
        last = residual(last, refused * (emitted < length)[:, None])
    final = torch.cat([draw(row[None], g) for row, g in zip(last, generators, strict=True)])

    output = torch.full((batch, length + 1), -1, dtype=torch.int32, device=tokens.device)
    kept = torch.arange(length, device=tokens.device) < emitted[:, None]
    output[:, :length][kept] = tokens[kept].int()
    output[rows, emitted] = final.int()
    counts[0] += (uniforms * q < p).sum(-1).int()
    counts[1] += emitted.int()
    return output, counts[0], counts[1]


def _generators(
    batch: int, device: torch.device, generator: torch.Generator | None, seed: Key, offset: Key
) -> list[torch.Generator | None]:
    """One generator a row; the same one for all rows where there is only one stream."""
    if (seed is None) != (offset is None):
        raise ArgumentError("seed and offset go together: one of them is None")
    if seed is None or offset is None:
        return [generator] * batch
    keys = [value.tolist() if isinstance(value, Tensor) else [value] for value in (seed, offset)]
    for name, key in zip(("seed", "offset"), keys, strict=True):
        if len(key) not in (1, batch):
            raise ShapeError(f"{name} has {len(key)} items, expected 1 or {batch}")
    streams = max(len(key) for key in keys)
    made: list[torch.Generator | None] = []
    for row in range(streams):
        at = [key[row % len(key)] for key in keys]
        # Odd multipliers spread both numbers over all bits, so that neighbours share no stream.
        mixed = (at[0] * 0x9E3779B97F4A7C15 ^ (at[1] * 0xD1342543DE82EF95 + 1)) % (1 << 63)
        made.append(torch.Generator(device).manual_seed(mixed))
    return made * (batch if streams == 1 else 1)
