"""One argument at a time is replaced by another: a call refuses it by name, or gives the right result."""

from typing import Any

import numpy as np
import pytest
import torch

from hornbeam import ops
from hornbeam.errors import ArgumentError, HornbeamError, InternalError, ShapeError
from tests.hostile.kinds import KINDS, OUTPUTS, array, tensor
from tests.hostile.operations import LAYER, OPERATIONS, Operation, bits, plan, random

REFUSALS = (HornbeamError, TypeError, ValueError)
INPUTS = [(name, argument) for name, operation in OPERATIONS.items() for argument in operation.inputs]
WRITTEN = [(name, argument) for name, operation in OPERATIONS.items() for argument in operation.outputs]
#: What an argument is called where that is not its own name.
NAMES = {"chunks": "chunk", "codes": "moves"}
POOLS = [name for name, operation in OPERATIONS.items() if operation.pool]


def state(operation: Operation, arguments: dict[str, Any]) -> list[bytes]:
    """What a call may write."""
    names = [*operation.outputs, *(["chunks"] if operation.pool else [])]
    return [part for name in names for part in bits(arguments[name])]


def run(operation: Operation, arguments: dict[str, Any]) -> list[bytes]:
    result = operation.call(**arguments)
    return [*bits(result), *state(operation, arguments)]


def same_numbers(plain: Any, other: Any) -> bool:
    """Whether nothing but the manner differs, as far as numpy can tell."""
    try:
        a, b = (
            np.asarray(array(plain)),
            np.asarray(other.detach() if isinstance(other, torch.Tensor) else other),
        )
        return a.shape == b.shape and bool((a == b).all())
    except (TypeError, ValueError, RuntimeError):
        return False


def attempt(operation: Operation, arguments: dict[str, Any]) -> list[bytes] | Exception:
    """What a call gives, or the error that refuses it. A fault of ours is no refusal."""
    try:
        return run(operation, arguments)
    except InternalError:
        raise
    except (HornbeamError, TypeError, ValueError, AttributeError) as error:
        return error


def check(operation: Operation, argument: str, plain: Any, other: Any, arguments: dict[str, Any]) -> None:
    """The call refuses ``other`` by name and writes nothing, or does what it does with ``plain``."""
    expected = run(operation, operation.make())
    before, same = state(operation, arguments), same_numbers(plain, other)
    result = attempt(operation, arguments)
    is_array = isinstance(other, torch.Tensor | np.ndarray)
    resized = is_array and other.shape != plain.shape
    if isinstance(result, Exception):
        if is_array and not resized:
            assert not isinstance(result, AttributeError), result
            assert NAMES.get(argument, argument) in str(result), result
        assert state(operation, arguments) == before, f"{argument} was refused after something was written"
    elif not resized:
        assert same, f"{argument} was taken, though it says something else"
        assert result == expected


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "argument"), INPUTS)
def test_inputs_are_honoured_or_refused(name: str, argument: str, kind: str) -> None:
    operation = OPERATIONS[name]
    arguments = operation.make()
    plain = arguments[argument]
    if kind == "needs grad" and not tensor(plain).is_floating_point():
        pytest.skip("integers have no gradients")
    optional = ("bias", "sinks", "draft_logits", "sequences", "positions", "hint")
    if kind == "None" and (argument in optional or (name, argument) == ("topp", "offsets")):
        pytest.skip("the argument may be left out")
    if kind == "negated view" and tensor(plain).dtype == torch.uint8:
        pytest.skip("no signs")
    try:
        other = KINDS[kind](plain)
    except (NotImplementedError, RuntimeError) as error:
        pytest.skip(f"torch does not make one: {error}")
    check(operation, argument, plain, other, arguments | {argument: other})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", POOLS)
def test_chunks_are_honoured_or_refused(name: str, kind: str) -> None:
    operation = OPERATIONS[name]
    arguments = operation.make()
    plain = arguments["chunks"][1]
    arguments["chunks"][1] = KINDS[kind](plain)
    if kind in ("meta", "fake", "sparse"):
        with pytest.raises(REFUSALS, match="chunk"):
            operation.call(**arguments)
        return
    check(operation, "chunks", plain, arguments["chunks"][1], arguments)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "argument"), WRITTEN)
def test_outputs_are_written_or_refused(name: str, argument: str, kind: str) -> None:
    operation = OPERATIONS[name]
    arguments = operation.make()
    plain = arguments[argument]
    if kind == "needs grad" and not tensor(plain).is_floating_point():
        pytest.skip("integers have no gradients")
    if kind == "None":
        pytest.skip("the argument may be left out")
    arguments[argument] = other = KINDS[kind](plain)
    if kind in ("meta", "fake", "sparse"):
        with pytest.raises(REFUSALS, match=argument):
            operation.call(**arguments)
        return
    check(operation, argument, plain, other, arguments)


@pytest.mark.parametrize("kind", OUTPUTS)
@pytest.mark.parametrize(("name", "argument"), WRITTEN)
def test_outputs_that_may_not_be_written_are_refused(name: str, argument: str, kind: str) -> None:
    operation = OPERATIONS[name]
    arguments = operation.make()
    arguments[argument] = other = OUTPUTS[kind](arguments[argument])
    before = bits(other)
    with pytest.raises((ArgumentError, ShapeError), match=argument):
        operation.call(**arguments)
    assert bits(other) == before


@pytest.mark.parametrize("kind", ["read-only", "immutable"])
@pytest.mark.parametrize("name", [n for n in POOLS if not n.startswith(("tree", "attention", "gather"))])
def test_pools_that_may_not_be_written_are_refused(name: str, kind: str) -> None:
    operation = OPERATIONS[name]
    arguments = operation.make()
    chunks = arguments["chunks"] = [OUTPUTS[kind](chunk) for chunk in arguments["chunks"]]
    before = bits(chunks)
    with pytest.raises(ArgumentError, match=r"chunk.* is read-only"):
        operation.call(**arguments)
    assert bits(chunks) == before


@pytest.mark.parametrize("name", [n for n in POOLS if not n.startswith(("tree", "attention", "gather"))])
def test_a_pool_that_lists_a_chunk_twice_is_refused(name: str) -> None:
    operation = OPERATIONS[name]
    arguments = operation.make()
    arguments["chunks"][1] = arguments["chunks"][0]
    if name in ("write_rows", "move_rows", "move_page_rows", "move_page_rows_at_once"):
        with pytest.raises(ArgumentError, match=r"memory that .* shares"):
            operation.call(**arguments)


def test_outputs_in_the_memory_of_other_arguments_are_refused() -> None:
    x = random(3, 16)
    with pytest.raises(ArgumentError, match="out is memory that x shares"):
        ops.linear(x, random(16, 16), None, x)
    room = random(3 * 4 * 32 * 2).view(3, 4, 64)
    q, out = room[..., :32], room[..., 32:]
    arguments = OPERATIONS["tree_attention"].make()
    with pytest.raises(ArgumentError, match="out is memory that q shares"):
        ops.tree_attention(**arguments | {"q": q, "out": out}, **LAYER)
    chunk = arguments["chunks"][0].view(-1)
    with pytest.raises(ArgumentError, match=r"out is memory that chunks\[0\] shares"):
        ops.tree_attention(**arguments | {"out": chunk[: 3 * 4 * 32].view(3, 4, 32)}, **LAYER)
    whole = torch.zeros(3, 4, 32)
    with pytest.raises(ArgumentError, match="lse is memory that out shares"):
        ops.tree_attention(**arguments | {"out": whole, "lse": whole.view(-1)[:12].view(3, 4)}, **LAYER)
    k = arguments["chunks"][0].view(-1)[: 3 * 2 * 32].view(3, 2, 32)
    with pytest.raises(ArgumentError, match="memory that k shares"):
        ops.write_rows(k, random(3, 2, 32), arguments["chunks"], plan(), **LAYER)


def test_outputs_inside_of_a_graph_are_refused_and_others_are_not() -> None:
    leaf = torch.zeros(3, 5, requires_grad=True)
    arguments = OPERATIONS["linear"].make() | {"out": leaf}
    with pytest.raises(ArgumentError, match="out is a tensor that requires grad"):
        ops.linear(**arguments)
    with torch.no_grad():
        ops.linear(**arguments)
    want = ops.linear(**OPERATIONS["linear"].make())
    assert torch.equal(leaf.detach(), want)
    plain = OPERATIONS["linear"].make()
    plain["weight"].requires_grad_()
    assert torch.equal(ops.linear(**plain), want)


@pytest.mark.parametrize("name", OPERATIONS)
def test_numbers_out_of_range_are_refused(name: str) -> None:
    """Every integer option at the ends of what a machine word holds."""
    operation = OPERATIONS[name]
    if "plan" not in operation.make() or name == "mass_columns":
        pytest.skip("no such options")
    for options in (
        {"layer": 2, "num_kv_heads": 2},
        {"layer": 2**63, "num_kv_heads": 2},
        {"layer": 2**64 - 1, "num_kv_heads": 1},
        {"layer": 2**62, "num_kv_heads": 4},
        {"layer": 0, "num_kv_heads": 2**62},
        {"layer": 0, "num_kv_heads": 0},
        {"layer": -1, "num_kv_heads": 2},
        {"layer": 1.0, "num_kv_heads": 2},
    ):
        arguments = operation.make()
        before = state(operation, arguments)
        with pytest.raises((*REFUSALS, OverflowError)):
            getattr(ops, name)(**arguments, **options)
        assert state(operation, arguments) == before
