"""Sampling and verification on the device: every rule of :func:`hornbeam.ops.verify`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hornbeam import _native
from hornbeam.cuda.device import lane, upload
from hornbeam.cuda.outputs import Outputs
from hornbeam.cuda.warps import SIZES, Histories, adjusts, law_of, pack_histories, pack_laws, pack_penalties
from hornbeam.errors import ArgumentError, ShapeError
from hornbeam.integers import integer_tensor

if TYPE_CHECKING:
    from hornbeam.warp import Warp

__all__ = ["verify"]

_RULES = ("chain", "block", "with_replacement", "without_replacement", "target_only", "typical")
#: What is the coupled rule where the draft was chosen, not drawn.
_RATIO_TESTS = _RULES[:4]


@dataclass
class _Request:
    """The arguments of one verification, checked, on the host; then on the device."""

    tree: tuple[Tensor, Tensor, Tensor]
    counters: tuple[Tensor | None, Tensor | None]
    depth: int
    batch: int
    vocabulary: int
    extra: dict[str, Tensor] = field(default_factory=dict)

    def upload(self, device: torch.device) -> None:
        """Everything in one transfer."""
        given = [values for values in self.counters if values is not None]
        there = iter(upload([*self.tree, *given, *self.extra.values()], device))
        self.tree = (next(there), next(there), next(there))
        first, second = (None if values is None else next(there) for values in self.counters)
        self.counters = (first, second)
        self.extra = {name: next(there) for name in self.extra}


def _host(values: Tensor | Sequence[int], dtype: torch.dtype) -> Tensor:
    return integer_tensor(values, "an index or a token", dtype).cpu().contiguous()


def _expect(what: str, got: int, expected: int) -> None:
    if got != expected:
        raise ShapeError(f"{what} is {got}, expected {expected}")


def _per_sequence(warps: Warp | Sequence[Warp], batch: int, what: str) -> list[Warp]:
    many = list(warps) if isinstance(warps, Sequence) else [warps]
    if len(many) == 1:
        return many * batch
    _expect(what, len(many), batch)
    return many


def _check(
    draft_tokens: Tensor,
    draft_parents: Tensor,
    offsets: Tensor,
    logits: Tensor,
    sequences: Tensor | None,
    positions: Tensor | None,
) -> _Request:
    tokens, parents = _host(draft_tokens, torch.int64), _host(draft_parents, torch.int32)
    begins = _host(offsets, torch.int32)
    depth, batch = _native.tree_depth(parents, begins), len(begins) - 1
    _expect("draft_tokens", len(tokens), len(parents))
    if bool((tokens < 0).any()):
        raise ArgumentError(f"a draft token is {int(tokens.min())}, expected a vocabulary id")
    _expect("target_logits rows", logits.shape[0], len(tokens) + batch)
    counters: list[Tensor | None] = []
    for what, values in (("sequences", sequences), ("positions", positions)):
        if values is None:
            counters.append(None)
            continue
        there = _host(values, torch.int64)
        _expect(what, len(there), batch)
        outside = (there < 0) | (there >= 1 << 32)
        if bool(outside.any()):
            raise ArgumentError(f"{what} is {int(there[outside][0])}, expected 0 to 4294967295")
        counters.append(there)
    return _Request((tokens, parents, begins), (counters[0], counters[1]), depth, batch, logits.shape[1])


def verify(
    draft_tokens: Tensor,
    draft_parents: Tensor,
    offsets: Tensor,
    logits: Tensor,
    draft_logits: Tensor | None = None,
    *,
    rule: str = "coupled",
    warp: Warp | Sequence[Warp],
    draft_warp: Warp | Sequence[Warp] | None = None,
    seed: int,
    sequences: Tensor | None,
    positions: Tensor | None,
    history: Histories | None = None,
    epsilon: float = 0.3,
    alpha: float = 0.09,
) -> tuple[Outputs, list[tuple[list[int], int]]]:
    """See :func:`hornbeam.ops.verify`: the outputs on the device, and what was read of them.

    Trees and counters come from the host, where they are checked, and go over in one transfer; the
    verdicts come back in one. Coupled and greedy walks sample all rows at once; the rules that draw
    take the law of every row first, then walk with a block of threads a sequence.

    Args:
        logits: as ``target_logits`` there.
    """
    driver = lane()
    if rule != "coupled" and rule not in _RULES:
        raise ArgumentError(f"rule is {rule!r}, expected one of {', '.join((*_RULES, 'coupled'))}")
    request = _check(draft_tokens, draft_parents, offsets, logits, sequences, positions)
    warps = _per_sequence(warp, request.batch, "warp")
    draft_warps = warps if draft_warp is None else _per_sequence(draft_warp, request.batch, "draft_warp")
    if draft_logits is not None:
        _expect("draft_logits rows", draft_logits.shape[0], logits.shape[0])
    if positions is None and request.batch and any(w.temperature != 0 for w in warps):
        raise ArgumentError("positions is None, expected one a sequence, since the warp samples")
    if rule in ("chain", "block"):
        _check_chains(request)
    draws = not all(w.is_greedy for w in warps) and rule != "coupled"
    if draft_logits is None and rule in _RATIO_TESTS:
        draws = False
    reads_draft = draws and rule in _RATIO_TESTS
    sides = [("target", logits, warps)]
    if reads_draft:
        assert draft_logits is not None
        sides.append(("draft", draft_logits, draft_warps))
    _collect(request, sides, draws, history)
    request.upload(logits.device)
    tables = {name: _adjusted(driver, request, name, rows) for name, rows, _ in sides}
    out = Outputs(request.batch, request.depth, logits.device)
    if draws:
        _ratio(driver, request, tables, rule, seed, (epsilon, alpha), out)
    else:
        shared = warps[0] if warps and all(w is warps[0] for w in warps) else None
        _coupled(driver, request, tables["target"], shared, seed, out)
    return out, out.read()


def _check_chains(request: _Request) -> None:
    _, parents, begins = request.tree
    for begin, end in zip(begins[:-1].tolist(), begins[1:].tolist(), strict=True):
        own = parents[begin:end]
        wrong = (own != torch.arange(-1, end - begin - 1, dtype=torch.int32)).nonzero()
        if len(wrong):
            index = int(wrong[0])
            raise ArgumentError(
                f"a draft token's parent is {int(own[index])}, "
                f"expected {index - 1}: this rule verifies chains"
            )


def _collect(request: _Request, sides: list[Any], draws: bool, history: Histories | None) -> None:
    """What has to go to the device beside the trees."""
    penalised = any(w.has_penalties for _, _, warps in sides for w in warps)
    if penalised and history is None:
        raise ArgumentError("history is None, expected prompt and output, since the warp has penalties")
    if history is not None:
        _expect("history", len(history), request.batch)
    if penalised and history is not None:
        request.extra["history"], request.extra["begins"] = pack_histories(history, request.vocabulary)
    for name, _, warps in sides:
        if any(adjusts(w) for w in warps):
            request.extra[f"{name} penalties"], request.extra[f"{name} bias"] = pack_penalties(warps)
        if draws or any(w is not warps[0] for w in warps):
            request.extra[f"{name} laws"] = pack_laws(warps)


def _adjusted(driver: Any, request: _Request, name: str, logits: Tensor) -> Tensor:
    """The logits after bias and penalties; the same tensor where there are none."""
    extra = request.extra
    if f"{name} penalties" not in extra:
        return logits
    if "history" in extra and "marks" not in extra:
        shape = (request.batch, request.vocabulary)
        extra["marks"] = torch.zeros(shape, dtype=torch.int32, device=logits.device)
        _native.cuda_count(driver, extra["history"], extra["begins"], extra["marks"])
    out = torch.empty(logits.shape, dtype=torch.float32, device=logits.device)
    penalties, bias = extra[f"{name} penalties"], extra[f"{name} bias"]
    _native.cuda_adjust(driver, logits, request.tree, extra.get("marks"), penalties, bias, out)
    return out


def _coupled(
    driver: Any, request: _Request, logits: Tensor, warp: Warp | None, seed: int, out: Outputs
) -> None:
    num_rows = logits.shape[0]
    tokens, parents, begins = request.tree
    sampled, faults = torch.empty((2, num_rows), dtype=torch.int32, device=logits.device).unbind()
    law = (0.0, None, None, None) if warp is None else law_of(warp)
    laws = None if warp is not None else request.extra.get("target laws")
    _native.cuda_sample(
        driver,
        logits,
        (parents, begins),
        request.counters[0],
        request.counters[1],
        law,
        laws,
        seed,
        sampled,
        faults,
    )
    _native.cuda_follow(
        driver,
        tokens,
        parents,
        begins,
        sampled,
        faults,
        out.accepted,
        out.num_accepted,
        out.next_token,
        out.fault_rows,
    )


def _ratio(
    driver: Any,
    request: _Request,
    tables: dict[str, Tensor],
    rule: str,
    seed: int,
    bounds: tuple[float, float],
    out: Outputs,
) -> None:
    device, num_rows = tables["target"].device, tables["target"].shape[0]

    def side(name: str) -> tuple[Tensor, Tensor, Tensor] | None:
        if name not in tables:
            return None
        rows = torch.empty((num_rows, SIZES["row_law"]), dtype=torch.uint8, device=device)
        return tables[name], request.extra[f"{name} laws"], rows

    target = side("target")
    assert target is not None
    scratch = (
        torch.empty((num_rows, 8), dtype=torch.uint8, device=device),
        torch.empty(num_rows, dtype=torch.int32, device=device),
    )
    _native.cuda_ratio(
        driver,
        rule,
        request.tree,
        request.counters,
        target,
        side("draft"),
        scratch,
        bounds,
        seed,
        (out.accepted, out.num_accepted, out.next_token, out.fault_rows),
    )
