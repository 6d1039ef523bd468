"""Files of heads that are cut, or hold something else: what is wrong is said, with the file's name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import hornbeam as hb
from hornbeam.errors import ArgumentError
from hornbeam.speculation import AcceptanceHead, FeatureHead, LayerSkip
from tests import models
from tests.heads import acceptance_weights, random_head, write_acceptance_head

Change = Callable[[dict[str, Any], dict[str, Any]], Any]


@pytest.fixture(scope="module")
def lm() -> hb.LM:
    return hb.LM(models.llama())


def rewritten(file: Path, change: Change) -> None:
    """The file with changed tensors and settings."""
    with safe_open(file, "pt") as data:
        metadata = data.metadata()
    tensors, settings = load_file(file), json.loads(metadata["settings"])
    change(tensors, settings)
    save_file(tensors, file, metadata | {"settings": json.dumps(settings)})


def put(name: str, value: Any) -> Change:
    """Changes a setting, or a tensor."""
    return lambda tensors, settings: (tensors if isinstance(value, torch.Tensor) else settings).update(
        {name: value}
    )


def drop(name: str) -> Change:
    return lambda tensors, settings: tensors.pop(name, None) if name in tensors else settings.pop(name)


FEATURE: list[tuple[Change, str]] = [
    (drop("o.weight"), r"lacks the tensors \['o.weight'\], and has \[\] beside"),
    (put("more", torch.zeros(1)), r"lacks the tensors \[\], and has \['more'\] beside"),
    (
        put("q.weight", torch.zeros(192, 95)),
        r"tensor q.weight has the shape \[192, 95\], expected \[192, 96\]",
    ),
    (put("k.weight", torch.zeros(64)), r"tensor k.weight has the shape \[64\], expected \[64, 96\]"),
    (put("gate.weight", torch.zeros(96)), r"tensor gate.weight has the shape \[96\], expected \[any, 96\]"),
    (
        put("up.weight", torch.zeros(41, 96)),
        r"tensor up.weight has the shape \[41, 96\], expected \[40, 96\]",
    ),
    (put("output_norm", torch.zeros(95)), r"tensor output_norm has the shape \[95\], expected \[96\]"),
    (put("draft_ids", torch.tensor([5, 3])), "draft_ids are not ascending ids, expected some of 0 to 255"),
    (put("draft_ids", torch.tensor([5, 256])), "draft_ids are not ascending ids, expected some of 0 to 255"),
    (put("draft_ids", torch.tensor([], dtype=torch.int32)), "draft_ids are not ascending ids"),
    (drop("heads"), "setting heads is None, expected an integer from 1 on"),
    (put("head_dim", 32.5), "setting head_dim is 32.5, expected an integer from 1 on"),
    (put("kv_heads", 3), r"tensor k.weight has the shape \[64, 96\], expected \[96, 96\]"),
    (put("taps", [1, 9]), r"setting taps is \[1, 9\], expected a list of layers from 0 to 2"),
    (put("taps", []), r"setting taps is \[\], expected a list of layers"),
    (put("eps", "small"), "setting eps is 'small', expected a number above 0"),
]


@pytest.mark.parametrize(("change", "message"), FEATURE, ids=[str(i) for i in range(len(FEATURE))])
def test_a_feature_head_with_something_else(lm: hb.LM, tmp_path: Path, change: Change, message: str) -> None:
    file = random_head(tmp_path, lm.model)
    draft = FeatureHead(file)
    assert len(lm.generate([1, 2], draft=draft, max_new_tokens=3).token_ids) == 3
    rewritten(file, change)
    with pytest.raises(ArgumentError, match=message) as caught:
        hb.LM(lm.model).generate([1, 2], draft=draft, max_new_tokens=3)
    assert str(file) in str(caught.value)


ACCEPTANCE: list[tuple[Change, str]] = [
    (drop("out.bias"), r"lacks the tensors \['out.bias'\], and has \[\] beside"),
    (drop("0.weight"), r"lacks the tensors \['0.weight'\]"),
    (put("more", torch.zeros(1)), r"has \['more'\] beside"),
    (put("1.weight", torch.zeros(8, 9)), r"tensor 1.weight has the shape \[8, 9\], expected \[8, 8\]"),
    (put("out.weight", torch.zeros(8)), r"tensor out.weight has the shape \[8\], expected \[1, any\]"),
    (put("in.weight", torch.zeros(9, 96)), r"tensor in.weight has the shape \[9, 96\], expected \[8, any\]"),
    (put("in.weight", torch.zeros(8, 95)), r"the draft's states have 96 numbers, expected the 95 that"),
    (put("blocks", -1), "setting blocks is -1, expected an integer from 0 on"),
    (put("blocks", True), "setting blocks is True, expected an integer from 0 on"),
    (put("blocks", 3), r"lacks the tensors \['2.bias', '2.weight'\]"),
    (drop("blocks"), "setting blocks is None"),
]


@pytest.mark.parametrize(("change", "message"), ACCEPTANCE, ids=[str(i) for i in range(len(ACCEPTANCE))])
def test_an_acceptance_head_with_something_else(
    lm: hb.LM, tmp_path: Path, change: Change, message: str
) -> None:
    draft = LayerSkip(exit_layer=1, shape=hb.spec.shape.Chain(3))
    file = write_acceptance_head(tmp_path / "head", draft, lm, acceptance_weights(96))
    options: dict[str, Any] = {"draft": draft, "length": AcceptanceHead(file), "max_new_tokens": 6}
    assert len(lm.generate([1, 2], **options).token_ids) == 6
    rewritten(file, change)
    with pytest.raises(ArgumentError, match=message) as caught:
        lm.generate([1, 2], **options)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_head_that_is_cut_off(lm: hb.LM, tmp_path: Path, share: float) -> None:
    file = random_head(tmp_path, lm.model)
    data = file.read_bytes()
    file.write_bytes(data[: int(share * len(data))])
    for call in (
        lambda: lm.generate([1, 2], draft=FeatureHead(file)),
        lambda: AcceptanceHead(file).start(),
        lambda: hb.keep.HeadScores.load(file),
    ):
        with pytest.raises(ArgumentError, match="is not a safetensors file") as caught:
            call()
        assert str(file) in str(caught.value)


@pytest.mark.parametrize("settings", [None, "", "{", "[1]", "3"])
def test_settings_that_are_none(tmp_path: Path, settings: str | None) -> None:
    from hornbeam.speculation.stop.acceptance_head import FORMAT

    metadata = {"format": FORMAT} | ({} if settings is None else {"settings": settings})
    save_file({"x": torch.zeros(1)}, tmp_path / "head", metadata)
    with pytest.raises(ArgumentError, match=r"has the settings .*, expected a JSON object in its metadata"):
        AcceptanceHead(tmp_path / "head").start()
