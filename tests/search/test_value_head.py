"""Heads over hidden states: their files, their numbers, and what is refused."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path as File
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hornbeam as hb
from hornbeam.errors import ArgumentError
from hornbeam.search import Path, StepEnd, ValueHead
from hornbeam.tensor_file import write_tensors
from tests import models
from tests.reference import value as reference

METADATA = {"format": "hornbeam.value_head", "version": "1", "activation": "gelu", "output": "sigmoid"}


def layers_of(sizes: list[int], seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    return [(draw(after, before) / before**0.5, draw(after)) for before, after in pairwise(sizes)]


def path(hidden: torch.Tensor | None) -> Path:
    return Path(1, None, "", [], [], 0, [], hidden=hidden)


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    seed=st.integers(0, 1000),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    output=st.sampled_from(["sigmoid", "linear"]),
)
def test_is_the_reference(sizes: list[int], seed: int, dtype: torch.dtype, output: Any) -> None:
    layers = layers_of([*sizes, 1], seed, dtype)
    head = ValueHead(layers, output)
    states = torch.randn(3, sizes[0], generator=torch.Generator().manual_seed(seed))
    found = head([path(state) for state in states])
    for state, value in zip(states, found, strict=True):
        assert value == pytest.approx(reference.head(layers, state, output), abs=1e-5)
        assert head([path(state)]) == [value]


@pytest.mark.parametrize("output", ["sigmoid", "linear"])
def test_a_file_is_what_was_saved(tmp_path: File, output: Any) -> None:
    head = ValueHead(layers_of([7, 5, 1]), output)
    head.save(tmp_path / "head.safetensors")
    again = ValueHead.from_file(tmp_path / "head.safetensors")
    assert repr(again) == repr(head) == f"ValueHead(7 -> 5 -> 1, output={output!r})"
    state = torch.randn(7)
    assert again([path(state)]) == head([path(state)])


def test_a_file_of_half_precision_is_computed_in_float32(tmp_path: File) -> None:
    layers = layers_of([7, 5, 1], dtype=torch.bfloat16)
    tensors = {
        f"layers.{i}.{name}": tensor
        for i, own in enumerate(layers)
        for name, tensor in zip(("weight", "bias"), own, strict=True)
    }
    write_tensors(tmp_path / "head.safetensors", tensors, METADATA)
    head = ValueHead.from_file(tmp_path / "head.safetensors")
    state = torch.randn(7)
    assert head([path(state)]) == [pytest.approx(reference.head(layers, state, "sigmoid"), abs=1e-6)]


def test_a_search_values_by_it() -> None:
    model = models.llama()
    lm = hb.LM(model, models.byte_tokenizer())
    head = ValueHead(layers_of([96, 8, 1]))
    result = lm.search(
        "where to?",
        recipe=hb.recipes.a_star(children=3, max_depth=3),
        value=head,
        step=StepEnd(delimiter=None, max_tokens=4),
        draft=None,
    )
    assert result.error is None
    valued = [found for found in result.tree.paths.values() if found.node]
    assert len(valued) > 5
    for found in valued:
        state = reference.final_hidden(model, [*found.prompt_ids, *found.token_ids])
        assert found.value == pytest.approx(reference.head(head.layers, state, "sigmoid"), abs=1e-3)
    with pytest.raises(ArgumentError, match="takes hidden states of 64 numbers, expected the model's 96"):
        lm.search("a", recipe=hb.recipes.rebase(), value=ValueHead(layers_of([64, 1])))


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([], "expected at least one"),
        ([3], r"layers\[0\] is 3, expected \(weight, bias\)"),
        ([(3, torch.zeros(1))], r"layers\.0\.weight is int, expected float32"),
        ([(torch.zeros(1, 2).long(), torch.zeros(1))], r"layers\.0\.weight is torch\.int64"),
        ([(torch.zeros(2), torch.zeros(1))], r"layers\.0\.weight has the shape \[2\], expected \[out, in\]"),
        ([(torch.zeros(1, 2), torch.zeros(2))], r"layers\.0\.bias has the shape \[2\], expected \[1\]"),
        (
            [(torch.zeros(1, 2), torch.zeros(1, 1))],
            r"layers\.0\.bias has the shape \[1, 1\], expected \[out\]",
        ),
        (
            [*layers_of([4, 3]), *layers_of([2, 1])],
            r"layers\.1\.weight has the shape \[1, 2\], expected \[any, 3\]",
        ),
        (
            layers_of([4, 3]),
            r"layers\.0\.weight has the shape \[3, 4\], expected \[1, 4\]: a value is one number",
        ),
    ],
)
def test_layers_are_checked(layers: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        ValueHead(layers)


def test_output_and_states_are_checked() -> None:
    with pytest.raises(ArgumentError, match="output is 'relu', expected 'sigmoid' or 'linear'"):
        ValueHead(layers_of([2, 1]), "relu")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="path 1 has no hidden state"):
        ValueHead(layers_of([2, 1]))([path(None)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"format": "hornbeam.other"},
            "has the format 'hornbeam.other' in its metadata, expected 'hornbeam.value",
        ),
        ({"version": "2"}, "has the version '2' in its metadata, expected '1'"),
        ({"activation": "relu"}, "has the activation 'relu' in its metadata, expected 'gelu'"),
        ({"output": "softmax"}, "has the output 'softmax' in its metadata, expected 'sigmoid' or 'linear'"),
        ({"output": None}, "has the output None in its metadata"),
        ({"tensors": "bias"}, r"lacks the tensors \['layers.0.bias'\]"),
        ({"tensors": "layers.0.weight"}, r"lacks the tensors \['layers.0.weight'\]"),
        ({"tensors": "extra"}, r"and has \['extra'\] beside what is expected"),
        ({"tensors": "shape"}, r"head.safetensors: layers.0.bias has the shape \[3\], expected \[1\]"),
    ],
)
def test_files_are_checked(tmp_path: File, change: dict[str, Any], message: str) -> None:
    tensors = {"layers.0.weight": torch.zeros(1, 4), "layers.0.bias": torch.zeros(1)}
    kind = change.pop("tensors", None)
    if kind == "bias":
        del tensors["layers.0.bias"]
    elif kind == "layers.0.weight":
        tensors = {"other": torch.zeros(1)}
    elif kind == "extra":
        tensors["extra"] = torch.zeros(1)
    elif kind == "shape":
        tensors["layers.0.bias"] = torch.zeros(3)
    metadata = {name: value for name, value in (METADATA | change).items() if value is not None}
    write_tensors(tmp_path / "head.safetensors", tensors, metadata)
    with pytest.raises(ArgumentError, match=message):
        ValueHead.from_file(tmp_path / "head.safetensors")


def test_a_file_that_is_none(tmp_path: File) -> None:
    with pytest.raises(ArgumentError, match="expected a safetensors file"):
        ValueHead.from_file(tmp_path / "none")
