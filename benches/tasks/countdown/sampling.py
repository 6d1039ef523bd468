"""Rollouts of a Countdown model, many at a time, with plain transformers: what value heads learn from."""

from __future__ import annotations

from typing import Any

import data
import numpy as np
import torch

#: Rows of one batch.
ROWS = 1024
#: Continuations of each prefix beside the rollout that it was cut from.
CONTINUATIONS = 4


@torch.inference_mode()
def write(
    model: Any, ids: torch.Tensor, count: int, generator: torch.Generator, each: int = 1
) -> torch.Tensor:
    """Samples ``count`` tokens at temperature 1 after ids [B, t], ``each`` times: [B * each, count]."""
    output = model(ids, use_cache=True, logits_to_keep=1)
    cache, logits = output.past_key_values, output.logits[:, -1]
    if each > 1:
        cache.batch_repeat_interleave(each)
        logits = logits.repeat_interleave(each, 0)
    found = []
    for place in range(count):
        # The largest of logits with Gumbel noise is a draw from their softmax.
        noise = torch.empty_like(logits).exponential_(generator=generator).log_()
        found.append((logits - noise).argmax(-1, keepdim=True))
        if place + 1 < count:
            output = model(found[-1], past_key_values=cache, use_cache=True)
            cache, logits = output.past_key_values, output.logits[:, -1]
    return torch.cat(found, 1)


def rollouts(
    model: Any, found: data.Solved, traces: bool, generator: torch.Generator
) -> tuple[torch.Tensor, list[int], torch.Tensor]:
    """One rollout a problem, and how often it and :data:`CONTINUATIONS` others of each prefix end right.

    Returns:
        Token ids [B, t]; the places of the last tokens of the steps, n - 1 of them; for each of these the
        share of right outcomes [B, n - 1]. The last one is the outcome of the rollout itself.
    """
    n = found.numbers.shape[1]
    lengths = [data.step_length(n, depth, traces) for depth in range(n - 1)]
    head = 2 * n + 2
    ends = [head + sum(lengths[: depth + 1]) - 1 for depth in range(n - 1)]
    all_ids, all_labels = [], []
    for begin in range(0, len(found), ROWS):
        numbers, target = found.numbers[begin : begin + ROWS], found.target[begin : begin + ROWS]
        prompt = torch.from_numpy(data.prompts(numbers, target))
        ids = torch.cat([prompt, write(model, prompt, sum(lengths), generator)], 1)
        right = data.are_right(numbers, target, ids[:, head:].numpy(), traces)
        labels = np.repeat(right[:, None].astype(np.float32), n - 1, 1)
        for depth, end in enumerate(ends[:-1]):
            prefix, rest = ids[:, : end + 1], sum(lengths[depth + 1 :])
            more = write(model, prefix, rest, generator, CONTINUATIONS)
            whole = torch.cat([prefix.repeat_interleave(CONTINUATIONS, 0), more], 1)[:, head:]
            many = [np.repeat(part, CONTINUATIONS, 0) for part in (numbers, target)]
            others = data.are_right(many[0], many[1], whole.numpy(), traces).reshape(-1, CONTINUATIONS)
            labels[:, depth] = (right + others.sum(1)) / (1 + CONTINUATIONS)
        all_ids.append(ids)
        all_labels.append(torch.from_numpy(labels))
    return torch.cat(all_ids), ends, torch.cat(all_labels)
