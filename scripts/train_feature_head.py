"""Trains a feature head (:class:`hornbeam.spec.FeatureHead`) on recorded text of its target.

    python scripts/record_states.py FOLDER
    python scripts/train_feature_head.py FOLDER --out head.safetensors [--minutes 32] ...

The head is one decoder layer. Row ``i`` takes the embedding of token ``i + 1`` and the target's hidden
states of token ``i`` and guesses token ``i + 2``; its output stands in for the hidden states of the next,
unknown row. It begins as a closed-form
fit (:func:`fit`) and is then trained as it is used (the "training-time test" of EAGLE-3, Li et al. 2025,
arXiv:2503.01840): after the first pass over true features, a share of the rows is continued for
``--unroll - 1`` further steps on the head's own outputs. The loss of every step is the cross entropy with
the target's own distribution over the draft vocabulary, not with the token that was drawn: a recorded
token then teaches as much as many. The draft vocabulary is the tokens with the most expected occurrences.

The curve of the held-out sequences (every 20th) goes to ``--curve``: for each depth the share of rows
where head and target agree on the best token, and the mean of the sum of min(p, q), which is the chance
that a token drawn from the head survives a ratio test at temperature 1.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "python"), str(Path(__file__).parent)]

from record_states import TAPS  # noqa: E402

from hornbeam.spec.head import FORMAT, sample_rows  # noqa: E402

HELD_OUT_EVERY = 20


@dataclass
class Text:
    """One recorded sequence: ``tokens [n]``, ``hidden [n, taps, H]`` (the last row is not known)."""

    tokens: Tensor
    hidden: Tensor


class Head(nn.Module):
    """The head with dense attention, for whole sequences under autograd."""

    def __init__(
        self, config: Any, taps: tuple[int, ...], draft_ids: Tensor, embedding: Tensor, inner: int
    ) -> None:
        super().__init__()
        hidden = config.hidden_size
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = config.head_dim
        self.eps = config.rms_norm_eps
        self.taps = taps

        def linear(inputs: int, outputs: int) -> nn.Linear:
            return nn.Linear(inputs, outputs, bias=False)

        self.features = linear(len(taps) * hidden, hidden)
        self.fuse = linear(2 * hidden, hidden)
        self.q = linear(hidden, self.heads * self.head_dim)
        self.k = linear(hidden, self.kv_heads * self.head_dim)
        self.v = linear(hidden, self.kv_heads * self.head_dim)
        self.o = linear(self.heads * self.head_dim, hidden)
        self.gate = linear(hidden, inner)
        self.up = linear(hidden, inner)
        self.down = linear(inner, hidden)
        self.attention_norm = nn.Parameter(torch.ones(hidden))
        self.mlp_norm = nn.Parameter(torch.ones(hidden))
        self.output_norm = nn.Parameter(torch.ones(hidden))
        self.embedding = embedding
        self.vocabulary = embedding[draft_ids]
        theta = config.rope_parameters["rope_theta"]
        self.frequency = theta ** (-torch.arange(0, self.head_dim, 2).float() / self.head_dim)

    def rms(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        return functional.rms_norm(x, x.shape[-1:], weight, self.eps)

    def start(self, target: Any) -> None:
        """Attention and feed-forward begin as the target's last layer."""
        layer = target.model.layers[-1]
        with torch.no_grad():
            for own, its in (("q", "q_proj"), ("k", "k_proj"), ("v", "v_proj"), ("o", "o_proj")):
                getattr(self, own).weight.copy_(getattr(layer.self_attn, its).weight)
            if self.gate.out_features == layer.mlp.gate_proj.out_features:
                self.gate.weight.copy_(layer.mlp.gate_proj.weight)
                self.up.weight.copy_(layer.mlp.up_proj.weight)
            self.attention_norm.copy_(layer.input_layernorm.weight)
            self.mlp_norm.copy_(layer.post_attention_layernorm.weight)
            self.output_norm.copy_(target.model.norm.weight)

    def read(self, hidden: Tensor) -> Tensor:
        """The features ``[..., H]`` of hidden states ``[..., taps, H]``."""
        return self.features(self.rms(hidden.float()).flatten(-2))

    def rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        """``x [B, N, heads, D]`` at ``positions [B, N]``."""
        angle = positions[..., None].float() * self.frequency
        cos, sin = angle.cos()[:, :, None], angle.sin()[:, :, None]
        a, b = x.chunk(2, dim=-1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)

    def prepare(
        self, tokens: Tensor, features: Tensor, positions: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The residual, and the queries, keys and values of rows ``[B, N]``."""
        residual = self.fuse(torch.cat([self.rms(self.embedding[tokens]), self.rms(features)], dim=-1))
        x = self.rms(residual, self.attention_norm)
        shape = (*tokens.shape, -1, self.head_dim)
        q, k, v = self.q(x).view(shape), self.k(x).view(shape), self.v(x).view(shape)
        return residual, self.rotate(q, positions), self.rotate(k, positions), v

    def finish(self, residual: Tensor, mixed: Tensor) -> Tensor:
        """The output features, from the residual and the attention's result ``[B, N, heads * D]``."""
        residual = residual + self.o(mixed)
        x = self.rms(residual, self.mlp_norm)
        return residual + self.down(functional.silu(self.gate(x)) * self.up(x))

    def logits(self, features: Tensor) -> Tensor:
        """Over the draft vocabulary."""
        return self.rms(features, self.output_norm) @ self.vocabulary.T

    def first(self, tokens: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rows on true features: ``tokens [B, N]`` are the next ones. Returns outputs, keys, values."""
        positions = torch.arange(tokens.shape[1]).expand(tokens.shape)
        residual, q, k, v = self.prepare(tokens, self.read(hidden), positions)
        mixed = functional.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True, enable_gqa=True
        )
        return self.finish(residual, mixed.transpose(1, 2).flatten(2)), k, v

    def further(
        self,
        tokens: Tensor,
        features: Tensor,
        rows: Tensor,
        step: int,
        true: tuple[Tensor, Tensor],
        own: list[tuple[Tensor, Tensor]],
    ) -> Tensor:
        """One more step for each of ``rows [B, M]``, which sees the true rows up to its own, and its own
        earlier guesses, which are ``own``: keys and values ``[B, M, kv heads, D]``
        a step. This step's are added there."""
        residual, q, k, v = self.prepare(tokens, features, rows + step)
        own.append((k, v))
        groups = self.heads // self.kv_heads
        batch, count = rows.shape
        q = q.view(batch, count, self.kv_heads, groups, self.head_dim) / math.sqrt(self.head_dim)
        scores = torch.einsum("bmkgd,bnkd->bmkgn", q, true[0])
        hidden_keys = torch.arange(true[0].shape[1]) > rows[:, :, None]
        scores = scores.masked_fill(hidden_keys[:, :, None, None], -torch.inf)
        recent = torch.stack([torch.einsum("bmkgd,bmkd->bmkg", q, key) for key, _ in own], dim=-1)
        weights = torch.cat([scores, recent], dim=-1).softmax(dim=-1)
        mixed = torch.einsum("bmkgn,bnkd->bmkgd", weights[..., : scores.shape[-1]], true[1])
        values = torch.stack([value for _, value in own], dim=-1)
        mixed = mixed + torch.einsum("bmkgs,bmkds->bmkgd", weights[..., scores.shape[-1] :], values)
        return self.finish(residual, mixed.reshape(batch, count, -1))


def unrolled(
    head: Head,
    tokens: Tensor,
    hidden: Tensor,
    lengths: Tensor,
    steps: int,
    count: int,
    generator: torch.Generator,
) -> Iterator[tuple[Tensor, Tensor]]:
    """For each step the outputs of the head, flat, and where each one's truth stands, as an index into
    ``tokens`` flattened: the hidden state there is the target's for the same guess."""
    batch, width = tokens.shape
    inputs = tokens[:, 1:]
    outputs, keys, values = head.first(inputs, hidden[:, :-1])
    place = torch.arange(width - 1).expand(batch, -1)
    # Row i guesses token i + 2, and the target does so at i + 1, whose state is known to lengths - 2.
    good = place + 1 <= lengths[:, None] - 2
    base = torch.arange(batch)[:, None] * width
    yield outputs[good], (base + place + 1)[good]
    if steps == 1:
        return
    order = torch.rand(good.shape, generator=generator).masked_fill(~good, -1.0)
    rows = order.topk(min(count, width - steps - 1), dim=1).indices
    taken = rows[:, :, None].expand(-1, -1, outputs.shape[-1])
    features = outputs.gather(1, taken)
    own: list[tuple[Tensor, Tensor]] = []
    for step in range(1, steps):
        place = (rows + step).clamp(max=width - 2)
        features = head.further(inputs.gather(1, place), features, rows, step, (keys, values), own)
        good = rows + step + 1 <= lengths[:, None] - 2
        yield features[good], (base + rows + step + 1)[good]


def load_texts(folder: Path, taps: tuple[int, ...]) -> list[Text]:
    """All recorded sequences; the tensors stay in the files' memory maps as far as they can."""
    columns = [TAPS.index(tap) for tap in taps]
    texts = []
    for file in sorted(folder.glob("*.safetensors")):
        data = load_file(file)
        ends = data["offsets"].tolist()
        hidden = data["hidden"] if taps == TAPS else data["hidden"][:, columns]
        texts += [Text(data["tokens"][a:b].long(), hidden[a:b]) for a, b in pairwise(ends) if b - a > 8]
    return texts


def batches(texts: list[Text], size: int, generator: torch.Generator) -> Iterator[list[Text]]:
    """Sequences of similar length together, in random order, about ``size`` tokens at once."""
    lengths = torch.tensor([len(text.tokens) for text in texts]).float()
    order = (lengths + 20 * torch.rand(len(texts), generator=generator)).argsort().tolist()
    groups, group, width = [], [], 0
    for index in order:
        width = max(width, len(texts[index].tokens))
        if group and width * (len(group) + 1) > size:
            groups.append(group)
            group, width = [], len(texts[index].tokens)
        group.append(index)
    groups.append(group)
    for at in torch.randperm(len(groups), generator=generator).tolist():
        yield [texts[index] for index in groups[at]]


def stack(texts: list[Text]) -> tuple[Tensor, Tensor, Tensor]:
    lengths = torch.tensor([len(text.tokens) for text in texts])
    width = int(lengths.max())
    tokens = torch.zeros((len(texts), width), dtype=torch.int64)
    hidden = torch.zeros((len(texts), width, *texts[0].hidden.shape[1:]), dtype=torch.float16)
    for row, text in enumerate(texts):
        tokens[row, : lengths[row]] = text.tokens
        hidden[row, : lengths[row]] = text.hidden
    return tokens, hidden, lengths


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


def choose_vocabulary(
    texts: list[Text], embedding: Tensor, size: int, samples: int = 12000
) -> tuple[Tensor, float]:
    """The tokens with the most expected occurrences under the target's own distributions, and the share
    of the probability that they cover on positions that did not choose them."""
    generator = torch.Generator().manual_seed(0)
    states = torch.cat([text.hidden[:-1, -1] for text in texts])
    picked = states[torch.randperm(len(states), generator=generator)[: 2 * samples]].float()
    halves = []
    for half in picked.chunk(2):
        total = torch.zeros(len(embedding), dtype=torch.float64)
        for part in half.split(1000):
            total += (part @ embedding.T).softmax(dim=-1).sum(dim=0).double()
        halves.append(total / len(half))
    covered = halves[1][halves[0].argsort(descending=True)[:size]].sum()
    ids = (halves[0] + halves[1]).argsort(descending=True)[:size].sort().values
    return ids, float(covered)


@torch.no_grad()
def measure(head: Head, texts: list[Text], depth: int) -> list[dict[str, float]]:
    """Acceptance by depth over held-out text, rows given the true tokens before them."""
    generator = torch.Generator().manual_seed(1)
    agreed, overlap, count = torch.zeros(depth), torch.zeros(depth), torch.zeros(depth)
    ids_of = head.draft_ids
    for group in batches(texts, 4096, generator):
        tokens, hidden, lengths = stack(group)
        finals = hidden[:, :, -1].flatten(0, 1)
        for step, (features, where) in enumerate(
            unrolled(head, tokens, hidden, lengths, depth, 48, generator)
        ):
            target = (finals[where].float() @ head.embedding.T).softmax(dim=-1)
            guess = head.logits(features).softmax(dim=-1)
            agreed[step] += (ids_of[guess.argmax(dim=-1)] == target.argmax(dim=-1)).sum()
            overlap[step] += torch.minimum(guess, target[:, ids_of]).sum()
            count[step] += len(guess)
    return [
        {
            "depth": step + 1,
            "greedy": float(agreed[step] / count[step]),
            "overlap": float(overlap[step] / count[step]),
        }
        for step in range(depth)
    ]


class Muon(torch.optim.Optimizer):
    """Momentum whose matrix is made orthogonal by a quintic iteration (Jordan et al. 2024), scaled to the
    update size of Adam (Liu et al. 2025, arXiv:2502.16982). As ``torch.optim.Muon``, but in float32: bfloat16
    products take thirty times as long on a processor without them."""

    def __init__(self, parameters: list[nn.Parameter], lr: float) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": 0.95, "weight_decay": 0.05})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                update = orthogonal(parameter.grad.lerp(state["momentum"], group["momentum"]))
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.sub_(update, alpha=group["lr"] * 0.2 * math.sqrt(max(parameter.shape)))


def orthogonal(x: Tensor) -> Tensor:
    """``U V^T`` of the singular value decomposition of ``x``, roughly: singular values in [0.7, 1.2]."""
    tall = x.shape[0] > x.shape[1]
    x = (x.T if tall else x) / (x.norm() + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.T if tall else x


def optimizers(head: Head, rate: float) -> list[torch.optim.Optimizer]:
    matrices = [p for p in head.parameters() if p.dim() == 2]
    vectors = [p for p in head.parameters() if p.dim() == 1]
    return [Muon(matrices, rate), torch.optim.AdamW(vectors, lr=rate, betas=(0.9, 0.95), weight_decay=0.0)]


def train(given: argparse.Namespace) -> None:
    from hornbeam import models

    torch.manual_seed(given.seed)
    target, _ = models.load(models.resolve("smollm2"), dtype=torch.float32)
    target.requires_grad_(False)
    embedding = target.get_input_embeddings().weight.detach()
    taps = tuple(given.taps)
    texts = load_texts(given.folder, taps)[: given.limit]
    held_out, training = texts[::HELD_OUT_EVERY], [t for i, t in enumerate(texts) if i % HELD_OUT_EVERY]
    held_out = held_out[: given.held_out]
    num_tokens = sum(len(text.tokens) for text in training)
    draft_ids, covered = choose_vocabulary(training, embedding, given.vocabulary)
    print(f"{len(training)} texts, {num_tokens} tokens, vocabulary covers {covered:.4f}", flush=True)
    head = Head(target.config, taps, draft_ids, embedding, given.inner)
    head.draft_ids = draft_ids
    head.start(target)
    if given.resume:
        load_weights(head, given.resume)
    else:
        fit(head, training)
    log = [{"minutes": 0.0, "steps": 0, "tokens": 0, "held_out": measure(head, held_out, 4)}]
    print("fitted", log[0]["held_out"], flush=True)
    optimizers_ = optimizers(head, given.rate)
    generator = torch.Generator().manual_seed(given.seed)
    begin, steps, seen = time.monotonic(), 0, 0
    running = torch.zeros(given.unroll)
    epoch = 0
    done = 0.0
    while done < 1:
        if epoch:
            texts = load_texts(given.folder, taps)[: given.limit]
            training = [t for i, t in enumerate(texts) if i % HELD_OUT_EVERY]
        print(f"epoch {epoch}: {len(training)} texts", flush=True)
        for group in batches(training, given.batch, generator):
            spent = (time.monotonic() - begin) / 60
            done = max(spent / given.minutes, seen / given.epochs / num_tokens)
            if done >= 1:
                break
            rate = given.rate * min(1.0, (steps + 1) / 20) * (0.02 + 0.98 * min(1.0, 1.25 * (1 - done)))
            for optimizer in optimizers_:
                for part in optimizer.param_groups:
                    part["lr"] = rate
            tokens, hidden, lengths = stack(group)
            finals = hidden[:, :, -1].flatten(0, 1).float()
            truth = torch.log_softmax(finals @ head.vocabulary.T, dim=-1)
            loss, losses = torch.zeros(()), []
            for step, (features, where) in enumerate(
                unrolled(head, tokens, hidden, lengths, given.unroll, given.continued, generator)
            ):
                wanted = truth[where]
                got = torch.log_softmax(head.logits(features), dim=-1)
                divergence = (wanted.exp() * (wanted - got)).sum(dim=-1).mean()
                losses.append(float(divergence.detach()))
                loss = loss + given.decay**step * divergence
            loss.backward()
            nn.utils.clip_grad_norm_(head.parameters(), 1.0)
            for optimizer in optimizers_:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            steps += 1
            seen += int(lengths.sum())
            running = torch.tensor(losses) if steps == 1 else 0.8 * running + 0.2 * torch.tensor(losses)
            if steps % given.every == 0:
                curve = measure(head, held_out, 4)
                entry = {
                    "minutes": round(spent, 2),
                    "steps": steps,
                    "tokens": seen,
                    "epoch": seen / num_tokens,
                    "divergence": [round(x, 4) for x in running.tolist()],
                    "held_out": curve,
                }
                log.append(entry)
                print(
                    f"{spent:5.1f} min {steps} steps {seen / num_tokens:.2f} epochs {entry['divergence']} "
                    + " ".join(f"{c['greedy']:.3f}/{c['overlap']:.3f}" for c in curve),
                    flush=True,
                )
                save(head, given, target)
        epoch += 1
    held_out = texts[::HELD_OUT_EVERY]
    curve = measure(head, held_out, 6)
    print(
        "end",
        json.dumps(curve),
        f"{(time.monotonic() - begin) / 60:.1f} min, {seen / num_tokens:.2f} epochs",
        flush=True,
    )
    save(head, given, target)
    if given.curve:
        settings = {
            name: value
            for name, value in vars(given).items()
            if name not in ("folder", "out", "curve", "resume")
        }
        report = {
            "settings": settings,
            "training_tokens": num_tokens,
            "held_out_texts": len(held_out),
            "covered": covered,
            "log": log,
            "held_out": curve,
        }
        given.curve.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def save(head: Head, given: argparse.Namespace, target: Any) -> None:
    """The head as :class:`hornbeam.spec.head.HeadFile` reads it."""
    tensors = {name: value.detach().bfloat16().contiguous() for name, value in head.named_parameters()}
    tensors["draft_ids"] = head.draft_ids.to(torch.int32)
    tensors["target_sample"] = head.embedding[sample_rows(len(head.embedding))].bfloat16()
    settings = {
        "taps": list(head.taps),
        "heads": head.heads,
        "kv_heads": head.kv_heads,
        "head_dim": head.head_dim,
        "rope_theta": target.config.rope_parameters["rope_theta"],
        "eps": head.eps,
        "vocabulary": len(head.embedding),
        "hidden": head.embedding.shape[1],
        "layers": target.config.num_hidden_layers,
    }
    scratch = given.out.with_suffix(".part")
    save_file(tensors, scratch, {"format": FORMAT, "settings": json.dumps(settings)})
    scratch.rename(given.out)


def load_weights(head: Head, file: Path) -> None:
    with safe_open(file, "pt") as data, torch.no_grad():
        for name, value in head.named_parameters():
            value.copy_(data.get_tensor(name))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--curve", type=Path)
    parser.add_argument("--resume", type=Path)
    parser.add_argument("--minutes", type=float, default=32)
    parser.add_argument("--epochs", type=float, default=1e9)
    parser.add_argument("--batch", type=int, default=2560)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--unroll", type=int, default=3)
    parser.add_argument("--continued", type=int, default=48)
    parser.add_argument("--decay", type=float, default=0.8)
    parser.add_argument("--vocabulary", type=int, default=6144)
    parser.add_argument("--inner", type=int, default=1536)
    parser.add_argument("--taps", type=int, nargs="+", default=list(TAPS))
    parser.add_argument("--limit", type=int, default=10**9)
    parser.add_argument("--held-out", type=int, default=10)
    parser.add_argument("--every", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
