"""Where the training of a feature head begins: what is linear in it, solved by least squares."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from hornbeam.training.dense_head import DenseHead
from hornbeam.training.recorded_text import Text, batches, stack

__all__ = ["fit"]

# Tokens that are computed at once.
GROUP_TOKENS = 4096
# Of what the final norm multiplies a channel by, as a share of the greatest.
LEAST_SCALE = 1e-3
# Texts whose beginnings say how large values are.
SAMPLES = 16
# Least squares with a ridge, as shares of the mean of the diagonal.
RIDGE, RIDGE_OF_OTHERS = 1e-3, 0.1


@torch.no_grad()
def fit(
    head: DenseHead, texts: Sequence[Text], generator: torch.Generator, show: Callable[[str], Any]
) -> None:
    """Solves for what is linear in turn, by least squares on the target's next final state: the two fused
    inputs, then the output of the attention, then that of the feed-forward. A minute of this is worth more
    than an hour of gradient steps from a random start.

    Args:
        head: is changed.
        texts: of the target.
        generator: of the order of the texts, which decides what rounding does.
        show: is told what is solved for.
    """
    size = head.fuse.out_features
    # The target's own final norm: its last tap over this is normal. No channel may be divided by nothing.
    scale = head.output_norm.detach()
    least = LEAST_SCALE * scale.abs().max()
    scale = torch.where(scale.abs() < least, least, scale)

    def solve(what: str, pairs: Iterator[tuple[Tensor, Tensor]]) -> Tensor:
        show(f"solving for {what} of the head")
        gram = moment = torch.zeros(())
        for x, y in pairs:
            gram, moment = gram + x.T @ x, moment + x.T @ y
        gram += RIDGE * gram.diagonal().mean() * torch.eye(len(gram))
        return torch.linalg.solve(gram, moment)

    def groups() -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        for group in batches(texts, GROUP_TOKENS, generator):
            tokens, hidden, lengths = stack(group)
            good = torch.arange(tokens.shape[1] - 1) + 1 <= lengths[:, None] - 2
            following = hidden[:, 1:, -1].float() / scale
            yield tokens[:, 1:], hidden[:, :-1], following, good

    def inputs() -> Iterator[tuple[Tensor, Tensor]]:
        for tokens, hidden, following, good in groups():
            taps = head.rms(hidden[good].float())
            last = taps[:, -1:] / scale
            x = torch.cat(
                [head.rms(head.target.embedding[tokens[good]])[:, None], taps[:, :-1], head.rms(last)], dim=1
            )
            yield x.flatten(1), following[good]

    solution = solve("the inputs", inputs())
    of_token, of_others, of_last = solution[:size], solution[size:-size], solution[-size:]
    # In the units of the last tap, so that the head's own output can take its place.
    gram = of_last @ of_last.T
    others = torch.linalg.solve(
        gram + RIDGE_OF_OTHERS * gram.diagonal().mean() * torch.eye(size), of_last @ of_others.T
    ).T
    sample = stack(texts[:SAMPLES])[1][:, 1:33].float()
    taps = head.rms(sample)
    size_of_last = (taps[..., -1, :] / scale).pow(2).mean().sqrt()
    head.features.weight.copy_(torch.cat([others.T, torch.diag(1 / scale) / size_of_last], dim=1))
    size_of_both = head.read(sample).pow(2).mean().sqrt()
    head.fuse.weight.copy_(torch.cat([of_token.T, of_last.T * size_of_both], dim=1))
    head.o.weight.zero_()
    head.down.weight.zero_()

    def after(part: str) -> Iterator[tuple[Tensor, Tensor]]:
        for tokens, hidden, following, good in groups():
            taken: list[Tensor] = []
            hook = getattr(head, part).register_forward_pre_hook(
                lambda _, given, taken=taken: taken.append(given[0])
            )
            output, _, _ = head.first(tokens, hidden)
            hook.remove()
            yield taken[0][good], (following - output)[good]

    head.o.weight.copy_(solve("the attention", after("o")).T)
    head.down.weight.copy_(solve("the feed-forward", after("down")).T)
