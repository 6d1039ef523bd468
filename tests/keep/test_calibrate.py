"""Head scores from texts with known answers."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors.torch import save_file

import hornbeam as hb
from hornbeam.errors import ArgumentError
from hornbeam.keep import Example, HeadScores, head_scores
from tests import models


def test_scores_count_the_rows_whose_best_key_says_the_next_token(tmp_path):
    """Against transformers' own attention weights."""
    model = models.llama()
    lm = hb.LM(model)
    ids = models.prompt(60, 1)[0].tolist()
    examples = [Example.copying(ids[:40], ids[10:16]), Example(ids[20:], ids[:4], [range(3, 9)] * 4)]
    found = head_scores(lm, examples, floor=0.2)
    total = torch.zeros(2, 6, dtype=torch.float64)
    model.set_attn_implementation("eager")
    for example in examples:
        tokens = example.prompt + example.answer[:-1]
        with torch.inference_mode():
            weights = model(torch.tensor([tokens]), output_attentions=True).attentions
        for layer, weight in enumerate(weights):
            for i, source in enumerate(example.sources):
                best = weight[0, :, len(example.prompt) - 1 + i].argmax(-1)
                hit = (best >= source.start) & (best < source.stop)
                total[layer] += hit / len(source) / len(example.answer)
    grouped = (total / total.sum()).view(2, 2, 3).sum(2)
    assert torch.allclose(torch.tensor(found.scores, dtype=torch.float64), grouped)
    assert found.floor == 0.2
    found.save(tmp_path / "scores.safetensors")
    assert HeadScores.load(tmp_path / "scores.safetensors") == found
    recipe = hb.recipes.sparse_mm("40%", head_scores=found, window=8)
    assert recipe.split == found  # the floor too
    for numbers in (found.scores, torch.tensor(found.scores, dtype=torch.float64)):
        assert hb.recipes.sparse_mm("40%", head_scores=numbers).split == HeadScores(found.scores)
    assert lm.generate(ids, keep=recipe, max_new_tokens=4, draft=None).stats.reductions == 1
    assert lm.tree.stats()["branches"] == 0


def test_another_thread_goes_on_decoding():
    """Red where an example is read without the engine's lock."""
    lm = hb.LM(models.llama())
    ids = models.prompt(60, 1)[0].tolist()
    examples = [Example.copying(ids[:40], ids[10:16])] * 20
    alone = lm.generate(ids, max_new_tokens=200, draft=None).token_ids
    want = head_scores(lm, examples)
    with ThreadPoolExecutor(1) as pool:
        beside = pool.submit(lm.generate, ids, max_new_tokens=200, draft=None)
        assert head_scores(lm, examples) == want
        assert beside.result().token_ids == alone


def test_examples_are_checked():
    with pytest.raises(ArgumentError, match="does not stand in the prompt"):
        Example.copying([1, 2, 3], [3, 2])
    assert Example.copying([1, 2, 1, 2], [1, 2]).sources == [range(2, 3), range(3, 4)]
    lm = hb.LM(models.llama())
    with pytest.raises(ArgumentError, match="0 examples"):
        head_scores(lm, [])
    with pytest.raises(ArgumentError, match="one source"):
        head_scores(lm, [Example([1, 2], [3], [])])


def test_a_file_of_something_else_is_refused(tmp_path):
    with pytest.raises(ArgumentError, match="expected a safetensors file"):
        HeadScores.load(tmp_path / "missing.safetensors")
    save_file({"other": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ArgumentError, match="holds no head_scores"):
        HeadScores.load(tmp_path / "other.safetensors")


@pytest.mark.skipif(os.name != "posix", reason="permissions are those of POSIX")
def test_scores_are_read_by_those_whom_the_umask_lets(tmp_path):
    file, scores = tmp_path / "scores", HeadScores(((1.0,), (2.0,)))
    before = os.umask(0o027)
    try:
        scores.save(file)
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    file.chmod(0o604)
    scores.save(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o604, "a file that is there keeps what it has"
    assert HeadScores.load(file) == scores


@pytest.mark.parametrize(
    ("tensor", "floor", "message"),
    [
        (torch.zeros(3), "0.1", r"head_scores has the shape \[3\], expected \[L, Hk\]"),
        (torch.ones(1, 2), "much", "floor is 'much', expected a number"),
    ],
    ids=["shape", "floor"],
)
def test_a_file_of_other_scores_is_refused(tmp_path, tensor, floor, message):
    save_file({"head_scores": tensor}, tmp_path / "scores", {"floor": floor})
    with pytest.raises(ArgumentError, match=message):
        HeadScores.load(tmp_path / "scores")
