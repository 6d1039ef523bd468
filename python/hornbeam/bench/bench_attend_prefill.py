"""Sparse prefill beside torch's dense causal attention: real text, a planted pattern, every length.

    hornbeam bench attend_prefill [--quick] [--only real|lengths|rates|kernels|planted|first_token ...]

``real``: queries, keys and values of some layers of the default model while it reads 7,900 tokens of the
standard library; choosing and reading by FlexPrefill against ``scaled_dot_product_attention``, and the share
of attention that is really covered. ``lengths``: the same with the standard cost model, at lengths from 256
on: where it reads densely, both sides are torch. ``rates``: the constants of that model on this machine.
``kernels``: ways to read the same blocks. ``planted``: 65,536 tokens, 8 heads of 128, with vertical and slash
lines planted; torch reads one head, whose time is taken eight times. ``first_token``: the time to the first
token of the default model with ``prefill=`` and without.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa

import hornbeam as hb
from hornbeam.attend import BlockSelection, FlexPrefill
from hornbeam.attend.prefill import CostModel
from hornbeam.bench import harness
from hornbeam.bench.recorded import Layer, recorded, standard_library
from hornbeam.bench.workload import Sides, ignoring

TOKENS, QUICK_TOKENS = 7_900, 1_536
GAMMA = 0.9
SIDES = ("ours", "theirs")


def run(quick: bool = False, only: Sequence[str] | None = None) -> dict[str, Any]:
    """All rows, or those of ``only``."""
    rounds = 3 if quick else harness.ALTERNATIONS
    tokens = QUICK_TOKENS if quick else TOKENS
    rows = {
        "real": lambda: real(recorded(tokens), rounds),
        "lengths": lambda: lengths(recorded(tokens), rounds),
        "rates": lambda: rates(recorded(tokens), rounds),
        "kernels": lambda: kernels(recorded(tokens), rounds),
        "planted": lambda: planted(8_192 if quick else 65_536, rounds),
        "first_token": lambda: first_token(tokens, quick),
    }
    with torch.inference_mode():
        return harness.run_rows(rows, only)


def dense(layer: Layer) -> Tensor:
    """What transformers calls for a prompt, ``[H, N, D]``."""
    arrays = layer.query[None], layer.key[None], layer.value[None]
    return sdpa(*arrays, is_causal=True, scale=layer.scale, enable_gqa=True)[0]


def real(layers: dict[int, Layer], rounds: int) -> dict[str, Any]:
    """Every recorded layer: sparse against dense, and what is covered."""
    each = {index: one_layer(index, layer, rounds) for index, layer in layers.items()}
    ours, theirs = (
        [sum(times) for times in zip(*(one[side] for one in each.values()), strict=True)] for side in SIDES
    )
    mass = torch.tensor([one["covered_mass"] for one in each.values()])
    return {
        "over_dense": harness.ratio(ours, theirs),
        "tokens": next(iter(layers.values())).query.shape[1],
        "gamma": GAMMA,
        "covered_mass": {
            "mean": float(mass.mean()),
            "least_head": float(mass.min()),
            "heads": mass.numel(),
            "heads_below": int((mass < GAMMA - 0.03).sum()),
        },
        "layers": {
            index: {name: value for name, value in one.items() if name not in SIDES}
            for index, one in each.items()
        },
    }


def one_layer(index: int, layer: Layer, rounds: int) -> dict[str, Any]:
    """One layer: the seconds of both sides, and what is read and covered."""
    recipe = FlexPrefill(GAMMA, cost=None)
    selection = recipe.plan(index, layer.query, layer.key, layer.scale)
    check(selection, layer)
    calls: dict[str, Callable[[], object]] = {
        "choice": lambda: recipe.plan(index, layer.query, layer.key, layer.scale),
        "ours": lambda: recipe.attention(index, layer.query, layer.key, layer.value, layer.scale),
        "theirs": lambda: dense(layer),
    }
    seconds = harness.alternate({name: ignoring(call) for name, call in calls.items()}, rounds)
    result = {
        "over_dense": harness.ratio(seconds["ours"], seconds["theirs"]),
        "choice_seconds": statistics.median(seconds["choice"]),
        "share_read": selection.share_read,
        "covered_mass": selection.covered_mass(layer.query, layer.key, layer.scale).tolist(),
        "patterns": list(selection.patterns),
    }
    print(f"  layer {index}", harness.plain(result), flush=True)
    return {**result, "ours": seconds["ours"], "theirs": seconds["theirs"]}


def check(selection: BlockSelection, layer: Layer) -> None:
    """Some rows against dense attention in float64 over the chosen blocks."""
    out = selection.attention(layer.query, layer.key, layer.value, layer.scale)
    grid, group = selection.grid, layer.query.shape[0] // layer.key.shape[0]
    for row in range(0, grid.num_rows, grid.num_rows // 5):
        for head in range(layer.query.shape[0]):
            seen = selection.blocks[head, row // grid.block_rows].repeat_interleave(grid.block_keys)
            position = grid.first_position + row
            seen = seen[: position + 1]
            key = layer.key[head // group, : position + 1][seen].double()
            weights = (key @ layer.query[head, row].double() * layer.scale).softmax(0)
            want = weights @ layer.value[head // group, : position + 1][seen].double()
            torch.testing.assert_close(out[row, head].double(), want, atol=1e-4, rtol=1e-4)


def lengths(layers: dict[int, Layer], rounds: int) -> dict[str, Any]:
    """The beginnings of the same text, with the cost model."""
    results = {}
    longest = next(iter(layers.values())).query.shape[1]
    for tokens in (256, 512, 1024, 1536, 2048, 3072, 4096, 6144, longest):
        if tokens > longest:
            continue
        parts = {index: layer.first(tokens) for index, layer in layers.items()}
        recipe = FlexPrefill(GAMMA)
        sparse: list[bool] = []

        def ours(
            parts: dict[int, Layer] = parts, recipe: FlexPrefill = recipe, sparse: list[bool] = sparse
        ) -> None:
            for index, part in parts.items():
                out = recipe.attention(index, part.query, part.key, part.value, part.scale)
                sparse.append(out is not None)
                if out is None:
                    dense(part)

        def theirs(parts: dict[int, Layer] = parts) -> None:
            for part in parts.values():
                dense(part)

        seconds = harness.alternate({"ours": ours, "theirs": theirs}, rounds, warm_up=0)
        ratio = harness.ratio(seconds["ours"], seconds["theirs"])
        results[str(tokens)] = {"over_dense": ratio, "sparse_share": sum(sparse) / len(sparse)}
        print(f"  {tokens}: {ratio.median:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]", flush=True)
    return results


def rates(layers: dict[int, Layer], rounds: int) -> dict[str, Any]:
    """The rates of the cost model at some lengths: medians over the layers."""
    found: dict[str, dict[str, float]] = {}
    longest = next(iter(layers.values())).query.shape[1]
    for tokens in (2048, 4096, longest):
        if tokens > longest:
            continue
        each: dict[str, list[float]] = {"look": [], "pair": [], "pair_behind": []}
        for index, layer in layers.items():
            for name, rate in rates_of(index, layer.first(tokens), rounds).items():
                each[name].append(rate)
        found[str(tokens)] = {name: statistics.median(own) for name, own in each.items()}
        print(f"  {tokens}", harness.plain(found[str(tokens)]), flush=True)
    return {"by_length": found, "defaults": dataclasses.asdict(CostModel())}


def rates_of(index: int, layer: Layer, rounds: int) -> dict[str, float]:
    """Of one layer, in what torch takes for a pair of a row and a key."""
    recipe = FlexPrefill(GAMMA, cost=None)
    arrays = layer.query, layer.key, layer.value, layer.scale
    selection = recipe.plan(index, layer.query, layer.key, layer.scale)
    half = layer.query.shape[1] // 2
    behind = layer.query[:, half:].contiguous(), *arrays[1:]
    late = recipe.plan(index, behind[0], layer.key, layer.scale)
    whole = BlockSelection(late.grid, torch.ones_like(late.blocks), late.patterns, late.estimated_mass)
    calls: dict[str, Callable[[], object]] = {
        "choice": lambda: recipe.plan(index, layer.query, layer.key, layer.scale),
        "sparse": lambda: selection.attention(*arrays),
        "dense": lambda: dense(layer),
        "late": lambda: late.attention(*behind),
        "whole": lambda: whole.attention(*behind),
    }
    seconds = harness.alternate({name: ignoring(call) for name, call in calls.items()}, rounds)
    took = {name: statistics.median(own) for name, own in seconds.items()}
    heads, keys, _ = layer.query.shape
    pair = took["dense"] / (heads * keys * (keys + 1) / 2)
    return {
        "look": took["choice"] / (heads * recipe.looked_at(keys, keys)) / pair,
        "pair": took["sparse"] / sum(selection.pairs_read) / pair,
        "pair_behind": took["late"] / took["whole"] / late.share_read,
    }


def kernels(layers: dict[int, Layer], rounds: int) -> dict[str, Any]:
    """Ways to read the same blocks of one layer; and ours reading everything, beside torch's."""
    index = sorted(layers)[len(layers) // 2]
    layer = layers[index]
    selection = FlexPrefill(GAMMA, cost=None).plan(index, layer.query, layer.key, layer.scale)
    whole = BlockSelection(
        selection.grid, torch.ones_like(selection.blocks), selection.patterns, selection.estimated_mass
    )
    arrays = layer.query, layer.key, layer.value, layer.scale
    want = selection.attention(*arrays)
    calls: dict[str, Callable[[], Tensor]] = {
        "ours": lambda: selection.attention(*arrays),
        "matmul": lambda: gathered(selection, layer, fused=False),
        "fused": lambda: gathered(selection, layer, fused=True),
    }
    for call in calls.values():
        torch.testing.assert_close(call(), want, atol=1e-4, rtol=1e-4)
    calls |= {"ours_everything": lambda: whole.attention(*arrays), "dense": lambda: dense(layer)}
    seconds = harness.alternate({name: ignoring(call) for name, call in calls.items()}, rounds)
    return {
        "share_read": selection.share_read,
        "over_matmul": harness.ratio(seconds["ours"], seconds["matmul"]),
        "over_fused": harness.ratio(seconds["ours"], seconds["fused"]),
        "everything_over_dense": harness.ratio(seconds["ours_everything"], seconds["dense"]),
        "sparse_over_dense": harness.ratio(seconds["ours"], seconds["dense"]),
    }


def gathered(selection: BlockSelection, layer: Layer, *, fused: bool) -> Tensor:
    """The chosen blocks gathered for each head and block of rows: torch's products, or its fused attention
    with a mask, over them."""
    grid = selection.grid
    heads, rows, dim = layer.query.shape
    out = torch.empty(rows, heads, dim)
    positions = torch.arange(grid.num_keys)
    for head in range(heads):
        plane = head * layer.key.shape[0] // heads
        key, value = layer.key[plane], layer.value[plane]
        for block, begin in enumerate(range(0, rows, grid.block_rows)):
            end = min(begin + grid.block_rows, rows)
            last = grid.first_position + end
            seen = selection.blocks[head, block].repeat_interleave(grid.block_keys)[:last]
            chosen = positions[:last][seen]
            own = positions[grid.first_position + begin : last]
            hidden = chosen[None] > own[:, None]
            query = layer.query[head, begin:end]
            if fused:
                mask = torch.zeros(hidden.shape).masked_fill_(hidden, -torch.inf)
                q, k, v = (x[None, None] for x in (query, key[chosen], value[chosen]))
                out[begin:end, head] = sdpa(q, k, v, attn_mask=mask, scale=layer.scale)[0, 0]
            else:
                scores = torch.mm(query * layer.scale, key[chosen].t()).masked_fill_(hidden, -torch.inf)
                out[begin:end, head] = scores.softmax(-1) @ value[chosen]
    return out


def planted(tokens: int, rounds: int) -> dict[str, Any]:
    """Lines planted into random keys. Vertical: the first 16 keys, and three places of four keys that every
    row attends to. Slash: a quarter of the text back, and multiples of it, 0 included."""
    heads, dim, far = 8, 128, tokens // 4
    generator = torch.Generator().manual_seed(7)

    def normal(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=generator)

    cycle = normal(heads, far, dim)
    places = torch.arange(tokens) % far
    query, key = 0.3 * normal(heads, tokens, dim), 0.3 * normal(heads, tokens, dim)
    query += cycle[:, places] + 1.0
    key += 1.2 * cycle[:, places]
    for place, count in ((0, 16), (tokens // 5, 4), (tokens // 3, 4), (tokens // 2, 4)):
        key[:, place : place + count] += 1.1
    value = normal(heads, tokens, dim)
    layer = Layer(query, key, value, dim**-0.5)
    recipe = FlexPrefill(GAMMA, cost=None)
    selection = recipe.plan(0, query, key, layer.scale)
    check(selection, layer)
    mass = selection.covered_mass(query, key, layer.scale) if tokens <= 8192 else None
    one = Layer(query[:1], key[:1], value[:1], layer.scale)
    rounds = min(rounds, 3)

    def theirs() -> float:
        begin = time.perf_counter()
        dense(one)
        return (time.perf_counter() - begin) * heads

    calls = {"ours": ignoring(lambda: recipe.attention(0, query, key, value, layer.scale)), "theirs": theirs}
    seconds = harness.alternate(calls, rounds, warm_up=0)
    return {
        "tokens": tokens,
        "over_dense": harness.ratio(seconds["ours"], seconds["theirs"]),
        "dense_is": "one head, its time taken eight times",
        "share_read": selection.share_read,
        "covered_mass_of_a_head": None if mass is None else mass.tolist(),
        "patterns": list(selection.patterns),
    }


def first_token(tokens: int, quick: bool) -> dict[str, Any]:
    """The whole of a prompt and one token, with and without."""
    sides = Sides(quick)
    prompt = sides.raw(standard_library())[:tokens]
    recipe = hb.recipes.flex_prefill(GAMMA)

    def call(prefill: Any) -> None:
        sides.lm.clear_cache()
        sides.lm.generate([prompt], max_new_tokens=1, draft=None, prefill=prefill)

    seconds = harness.alternate(
        {"ours": lambda: call(recipe), "dense": lambda: call(None)}, sides.alternations
    )
    return {"tokens": len(prompt), "over_dense": harness.ratio(seconds["ours"], seconds["dense"])}
