"""Operations of ``torch.ops.hornbeam`` that torch calls in the native module do what their Python does."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch

from hornbeam import ops
from hornbeam._native import Plan
from hornbeam.errors import InternalError
from hornbeam.ops.registered import OPERATORS
from tests.hostile import operations
from tests.hostile.kinds import KINDS, Tagged, expanded
from tests.hostile.operations import bits
from tests.ops.registering import ARGUMENTS, direct, good, spread

NATIVE = {one.name: one for one in OPERATORS if one.native is not None}


def operator(name: str) -> Any:
    return getattr(torch.ops.hornbeam, name).default


def outcome(call: Callable[..., Any], given: dict[str, Any]) -> Any:
    """All bits that are there afterwards, or the error and what it says."""
    try:
        result = call(**given)
    except InternalError:
        raise
    except Exception as error:
        return type(error), str(error)
    return bits([result, *(value for value in given.values() if isinstance(value, torch.Tensor | list))])


def test_what_is_native() -> None:
    names = {"linear", "linear_out", "topk", "topk_out", "write_rows", "tree_attention", "tree_attention_out"}
    assert set(NATIVE) == names


@pytest.mark.parametrize("name", NATIVE)
def test_the_arguments_are_those_of_the_schema(name: str) -> None:
    """torch leaves out what has its default, and gives the rest by position or by name."""
    arguments = torch._C._dispatch_find_schema_or_throw(f"hornbeam::{name}", "").schema().arguments
    native = inspect.signature(NATIVE[name].native)  # type: ignore[arg-type]
    assert [one.name for one in arguments] == list(native.parameters)
    for one, own in zip(arguments, native.parameters.values(), strict=True):
        assert (own.kind is own.KEYWORD_ONLY) == one.kwarg_only
        assert (own.default is own.empty) == (not one.has_default_value())
        assert own.default is own.empty or own.default == one.default_value


def places() -> list[tuple[str, str]]:
    """Tensors and lists of them: what else there is, torch has made what the schema says."""
    made = {name: ARGUMENTS[name]() for name in NATIVE}
    return [
        (n, key) for n in made for key, value in made[n].items() if isinstance(value, torch.Tensor | list)
    ]


def changed(name: str, key: str, kind: str) -> dict[str, Any] | None:
    """Good arguments but one, of a kind that torch calls a function of the CPU with. A list of chunks has one
    of that kind."""
    given = ARGUMENTS[name]()
    try:
        one = KINDS[kind](given[key][1] if key == "chunks" else given[key])
    except (TypeError, RuntimeError):
        return None
    if (
        type(one) not in (torch.Tensor, torch.nn.Parameter, Tagged)
        or one.layout != torch.strided
        or one.is_meta
    ):
        return None
    given[key] = [given[key][0], one] if key == "chunks" else one
    return given


@pytest.mark.parametrize(("name", "key"), places())
def test_any_tensor_is_taken_or_refused_alike(name: str, key: str) -> None:
    native, python = NATIVE[name].native, NATIVE[name].run
    assert native is not None
    outcomes = []
    for kind in KINDS:
        given, again = changed(name, key, kind), changed(name, key, kind)
        if given is None or again is None:
            continue
        outcomes.append(outcome(native, given))
        assert outcomes[-1] == outcome(python, again), kind
    assert len(outcomes) > 10
    assert any(isinstance(one, tuple) for one in outcomes), "nothing was refused"
    assert any(isinstance(one, list) for one in outcomes), "nothing was taken"


@pytest.mark.parametrize("name", NATIVE)
def test_torch_calls_the_native_function_on_the_cpu_alone(name: str) -> None:
    assert not isinstance(NATIVE[name].native, type(NATIVE[name].run))
    for key in ("CPU", "CUDA"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"hornbeam::{name}", key)
    assert outcome(operator(name), ARGUMENTS[name]()) == outcome(NATIVE[name].run, ARGUMENTS[name]())


@pytest.mark.parametrize("name", ["write_rows", "tree_attention"])
def test_chunks_may_be_a_tuple(name: str) -> None:
    given, want = ARGUMENTS[name](), ARGUMENTS[name]()
    direct(name, want)
    NATIVE[name].native(**given | {"chunks": tuple(given["chunks"])})  # type: ignore[misc]
    assert bits(given["chunks"]) == bits(want["chunks"])


def chain(rows: int, slab: int) -> Plan:
    """Rows that are written to a slab and see each other alone."""
    arrays = operations.plan_arrays()
    arrays["entries"] = operations.int32([slab, rows << 16, 0, -1], width=4)
    arrays["head_ranges"] = operations.int32(width=2)
    arrays["reads"] = operations.int32([0, 1, 0, rows, rows, 1, -1, 0], width=8)
    arrays["row_positions"] = operations.int32(*range(rows))
    arrays["row_end"] = operations.int32(*[rows] * rows)
    arrays["row_slots"] = operations.int32(*([slab, row] for row in range(rows)), width=2)
    return Plan(**arrays)


def test_words_that_are_written_to_between_two_calls_are_another_plan() -> None:
    """Also of tensors whose version torch does not count."""
    with torch.inference_mode():
        given = good("write_rows", layer=1, num_kv_heads=operations.KV_HEADS)
        words = ops.plan_words(chain(operations.ROWS, 2)).clone()
        assert words.is_inference()
        for slab in (2, 6, 2, 6):
            words.copy_(ops.plan_words(chain(operations.ROWS, slab)))
            want = operations.chunks()
            ops.write_rows(
                given["k"],
                given["v"],
                want,
                chain(operations.ROWS, slab),
                layer=1,
                num_kv_heads=operations.KV_HEADS,
            )
            chunks = operations.chunks()
            operator("write_rows")(given["k"], given["v"], chunks, words, 1, operations.KV_HEADS)
            assert bits(chunks) == bits(want)


def test_more_plans_than_are_kept_are_told_apart() -> None:
    """In any order, in one tensor each and all in one."""
    given = good("write_rows", layer=0, num_kv_heads=operations.KV_HEADS)
    slabs = [0, 1, 2, 3, 4, 5, 6, 7]
    plans = [(rows, slab) for rows in (1, 2, 3) for slab in slabs]
    words = {plan: ops.plan_words(chain(*plan)) for plan in plans}
    for rows, slab in plans + plans[::-1] + plans[::5] * 3:
        k, v = given["k"][:rows], given["v"][:rows]
        chunks, want = operations.chunks(), operations.chunks()
        where = {"layer": 0, "num_kv_heads": operations.KV_HEADS}
        operator("write_rows")(k, v, chunks, words[rows, slab], **where)
        ops.write_rows(k, v, want, chain(rows, slab), **where)
        assert bits(chunks) == bits(want)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.float64, torch.complex64])
def test_words_of_other_kinds_are_refused_or_read(dtype: torch.dtype) -> None:
    given = ARGUMENTS["write_rows"]()
    strided = spread(given["plan"], "plan")
    assert not strided.is_contiguous()
    call = operator("write_rows")
    want = outcome(call, given)
    assert outcome(call, ARGUMENTS["write_rows"]() | {"plan": strided})[:-1] == want[:-1]
    if dtype != torch.int32:
        with pytest.raises(ValueError, match=f"plan is {dtype} of shape"):
            call(**ARGUMENTS["write_rows"]() | {"plan": given["plan"].to(dtype)})
    with pytest.raises(ValueError, match=r"plan is torch.int32 of shape \[1, "):
        call(**ARGUMENTS["write_rows"]() | {"plan": given["plan"][None]})


SCORES = {
    "three rows": lambda: operations.random(3, 16),
    "one row": lambda: operations.random(16),
    "no rows": lambda: operations.random(0, 16),
    "empty rows": lambda: operations.random(3, 0),
    "more dimensions": lambda: operations.random(2, 3, 4, 5),
    "equal numbers": lambda: torch.ones(2, 30),
    "NaNs": lambda: torch.tensor([[1.0, float("nan"), 0.0, float("nan"), -0.0]]),
    "bfloat16": lambda: operations.random(3, 9).bfloat16(),
    "float16": lambda: operations.random(3, 9).half(),
    "every other": lambda: operations.random(3, 32)[:, ::2],
    "turned": lambda: operations.random(16, 3).T,
    "a subclass": lambda: operations.random(3, 16).as_subclass(Tagged),
    "needs grad": lambda: operations.random(3, 16).requires_grad_(),
}


@pytest.mark.parametrize("order", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("scores", SCORES)
def test_the_short_way_of_topk_is_the_long_one(scores: str, share: float, order: bool) -> None:
    """Offsets of even rows ask for the same by another way; so do a number a row, and outputs."""
    rows = SCORES[scores]()
    length, shape = rows.shape[-1], rows.shape[:-1]
    k = int(share * length)
    values, indices = ops.topk(rows, k, sorted=order)
    assert values.shape == indices.shape == (*shape, k)
    assert values.dtype == rows.dtype
    assert not values.requires_grad
    counts = torch.full(shape, k)
    if counts.dim() and counts.numel():
        assert bits(ops.topk(rows, counts, sorted=order)) == bits([values, indices])
    offsets = torch.arange(shape.numel() + 1) * length
    if length:
        ragged = ops.topk(rows.detach().reshape(-1), k, offsets=offsets, sorted=order)
        assert bits(ragged) == bits([values, indices])
    for kind in (tuple, list):
        out = kind((torch.empty_like(values), torch.empty_like(indices)))
        found = ops.topk(rows, k, sorted=order, out=out)
        assert found[0] is out[0]
        assert found[1] is out[1]
        assert bits(list(out)) == bits([values, indices])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 17}, "k is 17, expected 0 to 16"),
        ({"k": 1 << 80}, f"k is {1 << 80}, expected 0 to 16"),
        ({"k": -1}, "k is -1"),
        ({"k": True}, "k is True"),
        ({"k": 2.0}, r"k is 2\.0"),
        ({"scores": [1.0]}, "scores is a list, expected a tensor"),
        ({"scores": operations.random(3, 16).numpy()}, "scores is a ndarray, expected a tensor"),
        ({"scores": operations.random(3, 16).to_sparse()}, "scores is torch.sparse_coo"),
        ({"scores": torch.ones(3, 16, dtype=torch.int64)}, "scores is int64"),
        ({"scores": torch.tensor(1.0), "k": 0}, "without dimensions"),
        ({"scores": torch._neg_view(operations.random(3, 16))}, "sign is not applied"),
        ({"out": (torch.empty(3, 4), torch.empty(3, 4, dtype=torch.int64))}, "out has values of shape"),
        ({"out": (torch.empty(3, 3), torch.empty(3, 4, dtype=torch.int64))}, "indices is a tensor of shape"),
        ({"out": (torch.empty(3, 3), torch.empty(3, 3))}, "indices is float32"),
        ({"out": (torch.empty(3, 3).half(), torch.empty(3, 3, dtype=torch.int64))}, "values is float16"),
        ({"out": (expanded(torch.empty(3, 3)), torch.empty(3, 3, dtype=torch.int64))}, "values is strided"),
        (
            {"out": (torch.empty(3, 3, requires_grad=True), torch.empty(3, 3, dtype=torch.int64))},
            "values is a tensor that requires grad",
        ),
    ],
)
def test_the_short_way_of_topk_refuses_what_the_long_one_does(change: dict[str, Any], message: str) -> None:
    given = {"scores": operations.random(3, 16), "k": 3} | change
    with pytest.raises(ValueError, match=message):
        ops.topk(**given)


def test_outputs_of_topk_share_no_memory_with_its_scores() -> None:
    scores = operations.random(3, 16)
    with pytest.raises(ValueError, match="memory that scores shares"):
        ops.topk(scores, 16, out=(scores, torch.empty(3, 16, dtype=torch.int64)))
