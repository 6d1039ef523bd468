"""Training a head from texts to files: that it is used, that it is gone on with, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import hornbeam as hb
from hornbeam import tensor_file
from hornbeam.errors import ArgumentError, UnsupportedModel
from hornbeam.speculation import AcceptanceHead, Auto, FeatureHead, Fixed
from hornbeam.speculation.draft.head_network import HeadFile
from hornbeam.training import AcceptanceTraining, HeadTraining, train_head
from tests import models
from tests.heads import random_head
from tests.training.conftest import heads, quick, tiny


class Killed(BaseException):
    """Ends a training where it is, as a signal would."""


@pytest.fixture(scope="module")
def trained(lm: hb.LM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training that nothing has interrupted."""
    folder = tmp_path_factory.mktemp("trained") / "head"
    train_head(lm, folder, quick(), name="tiny")
    return folder


def test_what_is_written(lm: hb.LM, trained: Path) -> None:
    log = json.loads((trained / "log.json").read_text())
    assert log["model"] == "tiny"
    assert [entry["steps"] for entry in log["log"]] == [0, 2, 4]
    assert [entry["depth"] for entry in log["held_out"]][:4] == [1, 2, 3, 4]
    assert (log["training_texts"], log["held_out_texts"]) == (22, 2)
    assert log["settings"]["steps"] == 4
    assert log["settings"]["minutes"] is None
    assert log["acceptance"]["training_labels"] > 100
    assert [loss["epoch"] for loss in log["acceptance"]["losses"]] == [1, 2]
    stored = HeadFile.load(trained / "feature_head.safetensors")
    assert stored.mismatch(lm.engine) is None
    assert stored.settings["taps"] == [1, 2]
    assert len(stored.tensors["draft_ids"]) == 64
    assert not list(trained.rglob("*.partial"))


def test_the_heads_draft(lm: hb.LM, trained: Path) -> None:
    """By their folder and by their files; the text is that of no draft."""
    prompt = "What are the most important facts about tea?"
    plain = lm.generate(prompt, max_new_tokens=32, draft=None)
    chain = hb.spec.shape.Chain(3)
    for weights in (trained, str(trained / "feature_head.safetensors")):
        out = lm.generate(prompt, max_new_tokens=32, draft=FeatureHead(weights, chain), length=Fixed(3))
        assert out.token_ids == plain.token_ids
        assert out.stats.drafted > 0
    for weights in (trained, trained / "acceptance_head.safetensors"):
        options = hb.recipes.specdec_pp(FeatureHead(trained), weights=weights, most=3)
        assert len(lm.generate(prompt, max_new_tokens=16, temperature=1.0, **options).token_ids) == 16
    auto = lm.generate(prompt, max_new_tokens=32, draft=Auto(head=FeatureHead(trained)))
    assert auto.token_ids == plain.token_ids


def test_a_named_head_is_never_left_out(lm: hb.LM, trained: Path) -> None:
    draft = Auto(head=FeatureHead(trained))
    assert draft.left_out(lm) == {}
    assert FeatureHead(trained) in draft.union(lm).drafts
    with pytest.raises(UnsupportedModel, match="other weights"):
        tiny(models.llama(seed=1)).generate("x", max_new_tokens=2, draft=draft)
    with pytest.raises(ArgumentError, match="head is 'x', expected a FeatureHead"):
        Auto(head="x")  # type: ignore[arg-type]


def test_the_head_learns(lm: hb.LM, tmp_path: Path) -> None:
    """On texts that it sees many times: a random model's are no easier to guess for others."""
    report = train_head(lm, tmp_path, quick(steps=40, every=10, prompts=12, unroll=2)).report
    first, last = report["log"][1]["divergence"], report["log"][-1]["divergence"]
    assert last[0] < 0.7 * first[0]
    assert last[1] < 0.8 * first[1]


def test_a_training_that_is_killed_at_every_other_write(
    lm: hb.LM, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each run a file or two are written, and the next half-way. Red when the state of an optimizer, the
    place in an epoch or a generator is not kept (each was tried)."""
    folder, runs, writes = tmp_path / "head", 0, 0
    genuine = tensor_file.write_tensors

    def write(path: Path, *rest: Any) -> None:
        nonlocal writes
        writes += 1
        genuine(path, *rest)
        if writes == 2 + runs % 2:
            path.write_bytes(path.read_bytes()[:100])
            raise Killed

    monkeypatch.setattr(tensor_file, "write_tensors", write)
    while True:
        writes, runs = 0, runs + 1
        try:
            train_head(tiny(), folder, quick(), name="tiny")
        except Killed:
            continue
        break
    assert runs > 5
    assert heads(folder) == heads(trained)
    own, other = (json.loads((path / "log.json").read_text()) for path in (folder, trained))
    for report in (own, other):
        report.pop("seconds")
        for entry in report["log"]:
            entry.pop("minutes")
    assert own == other


def test_another_seed_is_another_head(lm: hb.LM, trained: Path, tmp_path: Path) -> None:
    train_head(lm, tmp_path, quick(seed=1))
    assert heads(tmp_path) != heads(trained)


def test_more_steps_go_on(lm: hb.LM, tmp_path: Path) -> None:
    notes: list[str] = []
    first = train_head(lm, tmp_path, quick(steps=2), note=notes.append)
    assert sum("texts; the last took" in note for note in notes) == 3
    del notes[:]
    assert train_head(lm, tmp_path, quick(steps=2), note=notes.append).report == first.report
    assert notes == [f"{tmp_path} holds the whole training; more minutes or steps go on with it"]
    del notes[:]
    (tmp_path / ".log.json.1.partial").write_text("what a killed process has left")
    more = train_head(lm, tmp_path, quick(steps=5), note=notes.append).report
    assert [entry["steps"] for entry in more["log"]] == [0, 2, 4, 5]
    assert not any("texts; the last took" in note for note in notes), "nothing is written again"
    assert not list(tmp_path.glob(".*"))
    shutil.rmtree(tmp_path / "states")
    again = train_head(lm, tmp_path, quick(steps=7), note=notes.append).report
    assert again["training_tokens"] == more["training_tokens"]
    assert sum("texts; the last took" in note for note in notes) == 3


def test_minutes_end_a_training(lm: hb.LM, tmp_path: Path) -> None:
    """One batch is written and labelled at least, however short the time is."""
    report = train_head(lm, tmp_path, quick(steps=None, minutes=1e-4)).report
    assert report["training_texts"] == 7
    assert [entry["steps"] for entry in report["log"]] == [0]
    assert report["settings"]["minutes"] == 1e-4
    more = train_head(lm, tmp_path, quick(steps=None, minutes=0.05)).report
    assert more["training_texts"] > 7
    assert more["log"][-1]["steps"] > 0
    assert sum(more["seconds"].values()) < 10


def test_a_head_to_begin_with(lm: hb.LM, trained: Path, tmp_path: Path) -> None:
    report = train_head(lm, tmp_path / "more", quick(vocabulary=None, steps=0), start=trained).report
    begin, end = (HeadFile.load(path / "feature_head.safetensors") for path in (trained, tmp_path / "more"))
    assert begin.settings == end.settings
    for name, tensor in begin.tensors.items():
        assert torch.equal(tensor, end.tensors[name]), name
    assert report["covered"] > 0.3
    other = random_head(tmp_path, models.llama(seed=1))
    with pytest.raises(UnsupportedModel, match="other weights"):
        train_head(lm, tmp_path / "other", quick(vocabulary=None), start=other)
    with pytest.raises(ArgumentError, match="vocabulary is given, but the head of start has its own"):
        train_head(lm, tmp_path / "other", quick(), start=trained)
    with pytest.raises(ArgumentError, match="that began with another head"):
        train_head(
            lm, tmp_path / "more", quick(vocabulary=None, steps=0), start=random_head(tmp_path, lm.model)
        )
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    "name", ["mistral", "qwen2", "qwen3", "gemma3", "phi3", "olmo2", "mixtral", "gpt_oss"]
)
def test_architectures(name: str, tmp_path: Path) -> None:
    """Tied and untied, with biases, windows, other norms and experts."""
    lm = tiny(models.ARCHITECTURES[name]())
    train_head(lm, tmp_path, quick(steps=1, prompts=8))
    plain = lm.generate("abc", max_new_tokens=12, draft=None)
    out = lm.generate("abc", max_new_tokens=12, draft=FeatureHead(tmp_path), length=Fixed(4))
    assert out.token_ids == plain.token_ids
    assert out.stats.drafted > 0


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("gpt_neox", "has no layers and norm of these names"),
        ("stablelm", r"its final norm \(LayerNorm\) is no RMS norm"),
        ("nemotron", "its final norm .* is no RMS norm"),
        ("gemma2", "its logits are not the product of its last hidden states and its output matrix"),
    ],
)
def test_architectures_that_have_no_support(name: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=f"a feature head cannot be trained for .*{reason}"):
        train_head(tiny(models.ARCHITECTURES[name]()), tmp_path, quick())
    assert not list(tmp_path.rglob("*.safetensors"))


class TestAFolderOfSomethingElse:
    def test_another_model(self, trained: Path) -> None:
        before = heads(trained)
        with pytest.raises(ArgumentError, match=r"holds the head of another model \(tiny\)"):
            train_head(tiny(models.llama(seed=1)), trained, quick())
        assert heads(trained) == before

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"seed": 1}, "holds a training whose seed is 0, and now it is 1"),
            ({"unroll": 2}, "whose unroll is 3, and now it is 2"),
            ({"taps": (0, 2)}, r"whose taps is None, and now it is \[0, 2\]"),
        ],
    )
    def test_other_settings(self, lm: hb.LM, trained: Path, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(ArgumentError, match=message):
            train_head(lm, trained, quick(**changes))

    def test_other_prompts(self, lm: hb.LM, trained: Path) -> None:
        with pytest.raises(ArgumentError, match="holds a training on other prompts"):
            train_head(lm, trained, quick(), prompts=["one", "two"])

    def test_other_files(self, lm: hb.LM, tmp_path: Path) -> None:
        (tmp_path / "thesis.txt").write_text("x")
        with pytest.raises(ArgumentError, match=r"holds other files \(thesis.txt\), expected a new folder"):
            train_head(lm, tmp_path, quick())
        with pytest.raises(ArgumentError, match="is a file, expected a folder"):
            train_head(lm, tmp_path / "thesis.txt", quick())

    def test_files_that_are_damaged(self, lm: hb.LM, trained: Path, tmp_path: Path) -> None:
        for name in ("run.json", "log.json", "checkpoint.safetensors"):
            folder = tmp_path / name
            (folder / "states").mkdir(parents=True)
            for file in (*trained.glob("*.*"), *trained.glob("states/*")):
                (folder / file.relative_to(trained)).write_bytes(file.read_bytes())
            (folder / name).write_bytes(b"{")
            with pytest.raises(ArgumentError, match=name):
                train_head(lm, folder, quick(steps=6))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"minutes": 1.0, "steps": 1}, "minutes and steps are both given"),
        ({"minutes": 0.0}, "minutes is 0.0, expected a positive number"),
        ({"minutes": float("inf")}, "minutes is inf"),
        ({"steps": -1}, "steps is -1, expected 0 or more"),
        ({"seed": -1}, "seed is -1"),
        ({"prompts": 1}, "prompts is 1, expected 2 or more"),
        ({"unroll": 0}, "unroll is 0, expected 1 or more"),
        ({"rate": 0.0}, "rate is 0.0, expected a positive number"),
        ({"decay": 1.5}, "decay is 1.5, expected 0 to 1"),
        ({"vocabulary": 0}, "vocabulary is 0, expected 1 or more"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        HeadTraining(**settings)


def test_settings_of_acceptance_out_of_range() -> None:
    with pytest.raises(ArgumentError, match="mixing is 1, expected less"):
        AcceptanceTraining(mixing=1)
    with pytest.raises(ArgumentError, match="depth is 0, expected 1 or more"):
        AcceptanceTraining(depth=0)


@pytest.mark.parametrize("taps", [(), (1,), (2, 1), (1, 3), (-1, 2)])
def test_taps_that_are_none(lm: hb.LM, tmp_path: Path, taps: tuple[int, ...]) -> None:
    with pytest.raises(
        ArgumentError, match="expected ascending layers, the last of which is the model's last, 2"
    ):
        train_head(lm, tmp_path, quick(taps=taps))


def test_a_model_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="the LM has no tokenizer"):
        train_head(hb.LM(models.llama()), tmp_path, quick())


def test_prompts_without_room(lm: hb.LM, tmp_path: Path) -> None:
    notes: list[str] = []
    fitting = [f"prompt {number}" for number in range(8)]
    train_head(lm, tmp_path / "a", quick(steps=0), prompts=["x" * 600, *fitting], note=notes.append)
    assert notes[0] == "1 prompts are left out: the model's context has no room for them"
    with pytest.raises(ArgumentError, match="0 of 2 prompts have 488 tokens or less"):
        train_head(lm, tmp_path / "b", quick(), prompts=["x" * 600, "y" * 600])
    assert not (tmp_path / "b").exists()


def test_the_callers_torch_is_left_alone(lm: hb.LM, tmp_path: Path) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    with torch.inference_mode():
        train_head(lm, tmp_path, quick(steps=1, prompts=8))
    assert torch.equal(torch.rand(3), expected)
    assert all(parameter.grad is None for parameter in lm.model.parameters())


def test_an_acceptance_head_is_tied_to_its_head(lm: hb.LM, trained: Path, tmp_path: Path) -> None:
    other = FeatureHead(random_head(tmp_path, lm.model), hb.spec.shape.Chain(3))
    with pytest.raises(UnsupportedModel, match="was trained for another draft"):
        lm.generate("x", max_new_tokens=4, draft=other, length=AcceptanceHead(trained))
