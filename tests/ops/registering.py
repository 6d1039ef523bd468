"""Good arguments of every operation of ``torch.ops.hornbeam``, and the same call of ``hornbeam.ops``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import hornbeam as hb
from hornbeam import ops
from hornbeam.ops.registered.words import histories_of, plan_of, warps_of
from tests.hostile import operations

WARP = hb.Warp(0.8, top_k=9, bias={3: -1.5, 7: 2.0}, repetition_penalty=1.2)
WARPS = [WARP, hb.Warp(1.3, top_p=0.9)]
LAYER = operations.LAYER


def good(name: str, **more: Any) -> dict[str, Any]:
    """The arguments that hostile ones are made of, as tensors."""
    given = operations.OPERATIONS[name].make() | more
    for key, value in given.items():
        if isinstance(value, np.ndarray):
            given[key] = torch.from_numpy(value)
        elif key == "plan":
            given[key] = ops.plan_words(value)
    return given


def without(arguments: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if name not in names}


def of_draws(arguments: dict[str, Any]) -> dict[str, Any]:
    """With penalties over what was said before."""
    past = {"history": torch.tensor([1, 2, 3, 3, 5, 3]), "history_offsets": torch.tensor([0, 2, 4, 4, 6])}
    return arguments | past | {"warp": ops.warp_words(WARPS), "seed": -5}


def _put_rows() -> dict[str, Any]:
    keys, values = operations.random(8, operations.DIM, seed=4), operations.random(8, operations.DIM, seed=5)
    return without(good("gather_rows"), "counts") | {"keys": keys, "values": values}


def _condense() -> dict[str, Any]:
    given = good("condense_pages")
    return without(given, "codes") | {"formats": ["int4"], "codes": [given["codes"]]}


def _ragged(name: str, **more: Any) -> dict[str, Any]:
    given = {"scores": operations.random(24), "offsets": torch.tensor([0, 9, 24])}
    return given | more


#: Fresh arguments of every operation, by name.
ARGUMENTS: dict[str, Callable[[], dict[str, Any]]] = {
    "tree_attention": lambda: without(good("tree_attention", **LAYER, window=9), "out", "lse"),
    "tree_attention_out": lambda: good("tree_attention", **LAYER, soft_cap=3.0, batch_invariant=True),
    "block_sparse_attention": lambda: without(
        good("block_sparse_attention", block_rows=4, block_keys=4), "out", "lse"
    ),
    "block_sparse_attention_out": lambda: good("block_sparse_attention", block_rows=4, block_keys=4),
    "mass_columns": lambda: good("mass_columns"),
    "attention_mass": lambda: without(good("attention_mass", **LAYER), "out", "lse", "seen"),
    "attention_mass_out": lambda: good("attention_mass", **LAYER),
    "linear": lambda: without(good("linear"), "out"),
    "linear_out": lambda: good("linear"),
    "write_rows": lambda: good("write_rows", **LAYER),
    "move_rows": lambda: good("move_rows"),
    "move_page_rows": lambda: good("move_page_rows"),
    "move_page_rows_at_once": lambda: good("move_page_rows_at_once"),
    "gather_rows": lambda: good("gather_rows"),
    "put_rows": _put_rows,
    "quantise_pages": lambda: good("quantise_pages", format="int4", by_page=True),
    "condense_pages": _condense,
    "topk": lambda: without(good("topk", k=3), "values", "indices"),
    "topk_out": lambda: good("topk", k=3, sorted=True),
    "topk_by_row": lambda: without(good("topk"), "values", "indices"),
    "topp": lambda: good("topp", p=0.5),
    "product_key_topk": lambda: good("product_key_topk", k=4),
    "block_topk": lambda: good("block_topk", block=4, k=2),
    "verify": lambda: of_draws(good("verify", draft_warp=ops.warp_words(WARP), rule="without_replacement")),
    "sample": lambda: of_draws(good("sample")),
    "probabilities": lambda: without(of_draws(good("sample")), "seed", "sequences", "positions"),
}


def direct(name: str, arguments: dict[str, Any]) -> Any:
    """What ``hornbeam.ops`` makes of the arguments."""
    given = dict(arguments)
    if "plan" in given:
        given["plan"] = plan_of(given["plan"])
    for key in ("warp", "draft_warp"):
        if key in given:
            given[key] = warps_of(given[key])
    if "seed" in given:
        given["seed"] %= 1 << 64
    if "history" in given:
        given["history"] = histories_of(given["history"], given.pop("history_offsets"))
    if name == "topk_out":
        given["out"] = (given.pop("values"), given.pop("indices"))
    if name == "condense_pages":
        number, _ = ops.page_formats(given["chunks"][0])[given.pop("formats")[0]]
        given["codes"] = [(number, given["codes"][0])]
    function = getattr(ops, name.removesuffix("_out").removesuffix("_by_row"))
    result = function(**given)
    if name == "mass_columns":
        return torch.tensor(result)
    return None if name.endswith("_out") else result


def spread(value: Any, name: str) -> Any:
    """The same elements with a stride of two, where an operation copies what does not lie side by side."""
    if not isinstance(value, torch.Tensor) or value.dim() == 0 or name in WRITTEN:
        return value
    return torch.stack((value, value), -1)[..., 0]


#: Arguments that are written, and those that are read where they lie.
WRITTEN = ("out", "lse", "seen", "values_out", "values", "indices", "chunks")
