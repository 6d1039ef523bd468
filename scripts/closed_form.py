"""Where the training of a feature head begins: what is linear in it, solved by least squares."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from dense_head import Head
from recorded_text import Text, batches, stack
from torch import Tensor

__all__ = ["fit"]


@torch.no_grad()
def fit(head: Head, texts: list[Text]) -> None:
    """Solves for what is linear in turn, by least squares on the target's next final state: the two fused
    inputs, then the output of the attention, then that of the feed-forward. A minute of this is worth more
    than an hour of gradient steps from a random start."""
    generator = torch.Generator().manual_seed(0)
    size = head.fuse.out_features
    scale = head.output_norm  # the target's own final norm: its last tap over this is normal

    def solve(pairs: Iterator[tuple[Tensor, Tensor]], ridge: float) -> Tensor:
        gram = moment = torch.zeros(())
        for x, y in pairs:
            gram, moment = gram + x.T @ x, moment + x.T @ y
        gram += ridge * gram.diagonal().mean() * torch.eye(len(gram))
        return torch.linalg.solve(gram, moment)

    def groups() -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        for group in batches(texts, 4096, generator):
            tokens, hidden, lengths = stack(group)
            good = torch.arange(tokens.shape[1] - 1) + 1 <= lengths[:, None] - 2
            following = hidden[:, 1:, -1].float() / scale
            yield tokens[:, 1:], hidden[:, :-1], following, good

    def inputs() -> Iterator[tuple[Tensor, Tensor]]:
        for tokens, hidden, following, good in groups():
            taps = head.rms(hidden[good].float())
            last = taps[:, -1:] / scale
            x = torch.cat(
                [head.rms(head.embedding[tokens[good]])[:, None], taps[:, :-1], head.rms(last)], dim=1
            )
            yield x.flatten(1), following[good]

    solution = solve(inputs(), 1e-3)
    of_token, of_others, of_last = solution[:size], solution[size:-size], solution[-size:]
    # In the units of the last tap, so that the head's own output can take its place.
    gram = of_last @ of_last.T
    others = torch.linalg.solve(
        gram + 0.1 * gram.diagonal().mean() * torch.eye(size), of_last @ of_others.T
    ).T
    sample = stack(texts[:16])[1][:, 1:33].float()
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

    head.o.weight.copy_(solve(after("o"), 1e-3).T)
    head.down.weight.copy_(solve(after("down"), 1e-3).T)
