"""The parts of a training: the network against its definition, groups of texts, vocabularies, prompts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import hornbeam as hb
from hornbeam.errors import ArgumentError
from hornbeam.speculation.draft.head_network import HeadFile
from hornbeam.tensor_file import read_tensors, replace_tensors
from hornbeam.training import read_prompts
from hornbeam.training.acceptance_figures import area
from hornbeam.training.dense_head import DenseHead, save, unrolled
from hornbeam.training.muon import orthogonal
from hornbeam.training.prompts import made_prompts
from hornbeam.training.recorded_text import Text, Texts, batches, stack
from hornbeam.training.recorder import record
from hornbeam.training.seeds import generator_of, seed_of
from hornbeam.training.target import HeadTarget, scale_of
from hornbeam.training.vocabulary import choose_vocabulary, expected_shares
from tests import models
from tests.heads import random_head
from tests.reference import feature_head as reference


def text_of(lm: hb.LM, length: int, seed: int) -> Text:
    """A text and its states, as the model itself gives them."""
    ids = models.prompt(length, seed)
    with torch.no_grad():
        states = lm.model(ids, output_hidden_states=True).hidden_states
    return Text(ids[0], torch.stack([states[tap][0] for tap in (1, 2)], dim=1).half())


def test_rows_and_their_continuations_are_those_of_the_definition(lm: hb.LM, tmp_path: Path) -> None:
    """Texts of different lengths in one group, so that padding would be seen."""
    stored = HeadFile.load(random_head(tmp_path, lm.model, draft_ids=range(0, 256, 3)))
    target = HeadTarget.of(lm)
    head = DenseHead.load(stored, target)
    texts = [text_of(lm, 12, 1), text_of(lm, 9, 2)]
    tokens, hidden, lengths = stack(texts)
    width, seen = tokens.shape[1], 0
    with torch.no_grad():
        for step, (features, where) in enumerate(
            unrolled(head, tokens, hidden, lengths, 3, 4, torch.Generator().manual_seed(0))
        ):
            for row, place in zip(head.logits(features), where.tolist(), strict=True):
                number, at = divmod(place, width)
                # The truth stands at `at`; the head has true states up to `at - step - 1`.
                own, certain = texts[number], at - step + 1
                path = own.tokens[certain : at + 1].tolist()
                expected = reference.guess(
                    stored.tensors,
                    stored.settings,
                    (target.embedding, target.output),
                    own.tokens[:certain].tolist(),
                    own.hidden[: certain - 1].float(),
                    path,
                )
                torch.testing.assert_close(row.double(), expected, rtol=1e-4, atol=1e-4)
                assert at <= int(lengths[number]) - 2
                seen += 1
    assert seen > 20


def test_a_stored_head_is_read_as_it_was(lm: hb.LM, tmp_path: Path) -> None:
    stored = HeadFile.load(random_head(tmp_path, lm.model))
    save(DenseHead.load(stored, HeadTarget.of(lm)), tmp_path / "again")
    again = HeadFile.load(tmp_path / "again")
    assert again.settings == stored.settings
    assert again.tensors.keys() == stored.tensors.keys()
    assert all(torch.equal(value, again.tensors[name]) for name, value in stored.tensors.items())


def test_tensors_are_the_same_bytes_each_time(tmp_path: Path) -> None:
    """safetensors alone shuffles the metadata: of twenty files, some differ."""
    metadata = {"z": '\u00e9\n"\x01', "format": "x", "settings": "{}", "\u00e9": ""}
    tensors = {"b": torch.arange(3), "a": torch.ones(2, 2)}
    for number in range(20):
        replace_tensors(tmp_path / str(number), tensors, metadata)
    assert len({(tmp_path / str(number)).read_bytes() for number in range(20)}) == 1
    found, read = read_tensors(tmp_path / "0", "x")
    assert read == metadata
    assert torch.equal(found["b"], tensors["b"])
    assert torch.equal(found["a"], tensors["a"])


def test_recorded_states_are_those_of_the_model(lm: hb.LM) -> None:
    """Prompts that share a beginning, one that is another's beginning, and one that stands there twice."""
    first = models.prompt(40)[0].tolist()
    prompts = [first, [*first[:33], 7, 8], first[:20], first, [5]]
    target, counts = HeadTarget.of(lm), list[int]()
    data = record(lm, target, prompts, taps=(0, 1, 2), temperature=1.0, seed=3, tokens=6, show=counts.append)
    ends = data["offsets"].tolist()
    assert len(ends) == len(prompts) + 1
    assert data["prompt_lengths"].tolist() == [len(prompt) for prompt in prompts]
    for number, prompt in enumerate(prompts):
        tokens = data["tokens"][ends[number] : ends[number + 1]]
        rows = data["hidden"][ends[number] : ends[number + 1]].float()
        assert tokens[: len(prompt)].tolist() == prompt
        assert len(tokens) == len(prompt) + 6
        with torch.no_grad():
            states = lm.model(tokens[None].long(), output_hidden_states=True).hidden_states
        for column, tap in enumerate((0, 1, 2)):
            expected = states[tap][0, :-1]
            if tap < 2:
                expected = torch.nn.functional.rms_norm(expected, expected.shape[-1:])
            torch.testing.assert_close(rows[:-1, column], expected, rtol=4e-3, atol=4e-3)
        assert not rows[-1].any()
    assert counts == sorted(counts)
    assert counts[-1] == 5 * len(prompts), "the last token of an answer is no row"


def test_groups_hold_every_text_once() -> None:
    sizes = [9 + 7 * number % 50 for number in range(60)]
    texts = [Text(torch.full((size,), at), torch.zeros(size, 1, 4)) for at, size in enumerate(sizes)]
    groups = list(batches(texts, 160, torch.Generator().manual_seed(0)))
    assert sorted(int(text.tokens[0]) for group in groups for text in group) == list(range(60))
    for group in groups:
        assert len(group) == 1 or len(group) * max(len(text.tokens) for text in group) <= 160


def test_too_few_texts() -> None:
    with pytest.raises(ArgumentError, match="0 of the texts that the model wrote have 9 tokens or more"):
        Texts.load([])


def test_a_vocabulary_is_the_likeliest_tokens() -> None:
    shares = (torch.tensor([0.1, 0.4, 0.1, 0.4]), torch.tensor([0.2, 0.3, 0.1, 0.4]))
    ids, covered = choose_vocabulary(shares, 3)
    assert ids.tolist() == [0, 1, 3]
    assert covered == pytest.approx(0.9)
    assert choose_vocabulary(shares, 9)[0].tolist() == [0, 1, 2, 3]


def test_expected_shares_are_those_of_all_places() -> None:
    """Of fewer places than are looked at, each is in one half; the last row of a text is none."""
    texts = [
        Text(torch.zeros(size, dtype=torch.int64), torch.randn(size, 2, 4).half()) for size in (9, 12, 10)
    ]
    for text in texts:
        text.hidden[-1] = torch.nan
    output = torch.randn(7, 4)
    first, second = expected_shares(texts, output, torch.Generator().manual_seed(0))
    rows = torch.cat([text.hidden[:-1, -1] for text in texts]).float()
    expected = (rows @ output.T).softmax(dim=-1).sum(dim=0)
    torch.testing.assert_close((14 * first + 14 * second).float(), expected)


def test_seeds_are_apart() -> None:
    seeds = {seed_of(seed, what, number) for seed in range(3) for what in "ab" for number in range(3)}
    assert len(seeds) == 18
    assert all(0 <= seed < 1 << 63 for seed in seeds)
    assert torch.equal(
        torch.rand(4, generator=generator_of(1, "a", 2)), torch.rand(4, generator=generator_of(1, "a", 2))
    )


@pytest.mark.parametrize("shape", [(6, 30), (30, 6), (8, 8)])
def test_muon_makes_matrices_orthogonal(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonal(matrix))
    assert values.min() > 0.3
    assert values.max() < 1.3


def test_the_area_under_a_curve() -> None:
    """Against all pairs, each with its probability."""
    scores, labels = torch.rand(20), torch.rand(20)
    pairs = [
        (float(labels[i] * (1 - labels[j])), float(scores[i] > scores[j]) + 0.5 * (i == j))
        for i in range(20)
        for j in range(20)
    ]
    expected = sum(weight * won for weight, won in pairs) / sum(weight for weight, _ in pairs)
    assert area(scores, labels) == pytest.approx(expected, abs=1e-6)
    assert area(scores, torch.ones(20)) == 0.5


def test_the_scale_of_a_norm() -> None:
    norm = torch.nn.RMSNorm(8)
    with torch.no_grad():
        norm.weight.copy_(torch.arange(8) / 4 - 1)
    torch.testing.assert_close(scale_of(norm, 8), norm.weight.detach())
    assert scale_of(torch.nn.LayerNorm(8), 8) is None
    assert scale_of(torch.nn.RMSNorm(8), 9) is None
    assert scale_of(None, 8) is None


class TestPrompts:
    def test_made_ones_are_different_and_the_same_again(self) -> None:
        made = made_prompts(500)
        assert len(set(made)) == 500
        assert made_prompts(200) == made[:200]
        assert made_prompts(200, seed=1) != made[:200]
        with pytest.raises(ArgumentError, match="prompts is 50001, expected at most 50000"):
            made_prompts(50_001)

    def test_those_of_files(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_text("one\n\n  two  \none\n")
        lines = [json.dumps("three\nlines"), json.dumps({"prompt": "four", "answer": "x"})]
        (tmp_path / "b.jsonl").write_text("\n".join(lines) + "\n")
        (tmp_path / ".hidden").write_text("five")
        skipped: list[Path] = []
        assert read_prompts([tmp_path], skipped.append) == ["one", "two", "three\nlines", "four"]
        assert skipped == [tmp_path / ".hidden"]

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("{", "line 2, is no JSON"),
            ("3", "line 2, is '3', expected a string or an object"),
            ('{"text": "x"}', "expected a string or an object with a string"),
            ('" "', "expected a string or an object"),
        ],
    )
    def test_lines_that_are_none(self, tmp_path: Path, line: str, message: str) -> None:
        file = tmp_path / "x.jsonl"
        file.write_text(f'"one"\n{line}\n')
        with pytest.raises(ArgumentError, match=message):
            read_prompts([file])

    def test_fewer_than_two(self, tmp_path: Path) -> None:
        (tmp_path / "x").write_text("one\n\none\n")
        with pytest.raises(ArgumentError, match="have 1 prompts, expected at least 2, one a line"):
            read_prompts([tmp_path / "x"])
