"""``torch.ops.hornbeam`` gives what ``hornbeam.ops`` gives, and torch can trace it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import hornbeam as hb
from hornbeam import ops
from hornbeam.errors import ArgumentError, HornbeamError, ShapeError
from hornbeam.ops.registered import OPERATORS
from tests.hostile import operations
from tests.hostile.operations import bits
from tests.ops.registering import ARGUMENTS, LAYER, WARPS, direct, good, spread

#: What is no operation on tensors: answers in Python's own types, of which other operations give tensors.
ONLY_PYTHON = {"page_formats", "sample_ids", "plan_words", "warp_words"}


def operator(name: str) -> Any:
    return getattr(torch.ops.hornbeam, name).default


def test_every_operation_is_registered_and_tested() -> None:
    names = {one.name for one in OPERATORS}
    assert set(ARGUMENTS) == names
    functions = {name for name in ops.__all__ if name[0].islower()}
    assert functions - ONLY_PYTHON == {name for name in names if name in functions}
    assert {name.removesuffix("_out").removesuffix("_by_row") for name in names} == functions - ONLY_PYTHON


@pytest.mark.parametrize("name", ARGUMENTS)
def test_the_same_bits_as_the_direct_call(name: str) -> None:
    expected, given, strided = (ARGUMENTS[name]() for _ in range(3))
    strided = {key: spread(value, key) for key, value in strided.items()}
    want = bits([direct(name, expected), *expected.values()])
    assert bits([operator(name)(**given), *given.values()]) == want
    assert bits([operator(name)(**strided), *strided.values()]) == want
    assert want != bits([None, *ARGUMENTS[name]().values()]), "nothing came out"


@pytest.mark.parametrize("name", ARGUMENTS)
def test_opcheck(name: str) -> None:
    given = {key: spread(value, key) for key, value in ARGUMENTS[name]().items()}
    torch.library.opcheck(operator(name), (), given)


def attend(step: dict[str, torch.Tensor], chunks: list[torch.Tensor], plan: torch.Tensor) -> Any:
    """What a layer does: rows are written, then read."""
    torch.ops.hornbeam.write_rows(step["k"], step["v"], chunks, plan, **LAYER)
    out = torch.ops.hornbeam.tree_attention(step["q"], chunks, plan, **LAYER)
    logits = torch.ops.hornbeam.linear(out.transpose(0, 1).flatten(1), step["weight"]) * 2
    kept, _ = torch.ops.hornbeam.topp(logits.softmax(-1), 0.8)
    values, indices = torch.ops.hornbeam.topk(logits, 3)
    return kept.sum(), values, indices, torch.ops.hornbeam.sample(logits, None, positions=indices[:, 0])


#: What torch 2.9 asks for before it traces sizes that depend on elements, and 2.15 does not (docs/ops.md).
TRACES_SIZES = {"capture_dynamic_output_shape_ops": torch.__version__ < "2.15"}


@pytest.mark.parametrize("dynamic", [False, True])
@torch._dynamo.config.patch(TRACES_SIZES)
def test_a_layer_compiles_to_one_graph(dynamic: bool) -> None:
    torch.compiler.reset()
    compiled = torch.compile(attend, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    weight = operations.random(20, operations.ROWS * operations.DIM, seed=7)
    step = good("write_rows") | {"q": good("tree_attention")["q"], "weight": weight}
    plan, eager, own = step.pop("plan"), step.pop("chunks"), operations.chunks()
    want = attend(step, eager, plan)
    got = compiled(step, own, plan)
    torch.testing.assert_close(got[:2], want[:2])
    assert torch.equal(got[2], want[2])
    assert torch.equal(got[3], want[3])
    assert bits(own) == bits(eager) != bits(operations.chunks())


def test_the_default_backend_writes_into_the_pool() -> None:
    def step(k: torch.Tensor, chunks: list[torch.Tensor], plan: torch.Tensor) -> torch.Tensor:
        torch.ops.hornbeam.write_rows(k, k, chunks, plan, **LAYER)
        return torch.ops.hornbeam.tree_attention(k, chunks, plan, **LAYER)

    torch.compiler.reset()
    given = good("write_rows")
    expected = operations.chunks()
    want = step(given["k"], expected, given["plan"])
    got = torch.compile(step, fullgraph=True)(given["k"], given["chunks"], given["plan"])
    assert torch.equal(got, want)
    assert bits(given["chunks"]) == bits(expected) != bits(operations.chunks())


def test_a_plan_that_has_changed_is_another_plan() -> None:
    given = ARGUMENTS["tree_attention"]()
    first = operator("tree_attention")(**given)
    arrays = operations.plan_arrays()
    arrays["reads"][0][2:4] = 1, 2
    given["plan"].copy_(ops.plan_words(hb._native.Plan(**arrays)))
    second = operator("tree_attention")(**given)
    assert bits(second) == bits(direct("tree_attention", given)) != bits(first)


@pytest.mark.parametrize("warp", [hb.Warp(), hb.Warp(0), hb.Warp(min_p=0.1, presence_penalty=0.5), *WARPS])
def test_warps_come_back(warp: hb.Warp) -> None:
    from hornbeam.ops.registered.words import warps_of

    assert warps_of(ops.warp_words(warp)) == [warp]
    assert warps_of(ops.warp_words([warp, WARPS[0]])) == [warp, WARPS[0]]


@pytest.mark.parametrize(
    ("name", "change", "kind", "message"),
    [
        ("linear", {"weight": torch.zeros(5, 3)}, ShapeError, "x is a tensor of shape"),
        ("topk", {"k": -1}, ArgumentError, "k is -1"),
        ("tree_attention", {"plan": torch.zeros(76)}, ShapeError, "plan is torch.float32"),
        ("sample", {"warp": torch.zeros(1, 8, dtype=torch.float64)}, ShapeError, "warp has 8 columns"),
        ("sample", {"warp": torch.full((1, 7), -1.0, dtype=torch.float64)}, ArgumentError, "top_k is -1"),
        ("sample", {"history": None}, ArgumentError, "without the other"),
        ("sample", {"history_offsets": torch.tensor([0, 2])}, ShapeError, "2 \\* B"),
        ("sample", {"history_offsets": torch.tensor([0, 9, 4, 4, 6])}, ArgumentError, "ascend"),
        ("condense_pages", {"formats": []}, ArgumentError, "formats"),
        ("condense_pages", {"formats": ["int3"]}, ArgumentError, "int3"),
    ],
)
def test_wrong_arguments_are_refused_as_by_the_direct_call(
    name: str, change: dict[str, Any], kind: type[HornbeamError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        operator(name)(**ARGUMENTS[name]() | change)


def test_gradients_are_not_recorded_and_torch_says_so() -> None:
    given = ARGUMENTS["linear"]()
    given["weight"].requires_grad_()
    with pytest.warns(UserWarning, match="autograd kernel was not registered"):
        operator("linear")(**given).sum().backward()
