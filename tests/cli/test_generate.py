"""``hornbeam generate`` on a tiny model: penalties, keep, and the comparison with plain transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import hornbeam as hb
from hornbeam.model import loading
from tests.cli.conftest import Run

LENGTH = 24


def configure(folder: Path, **fields: Any) -> None:
    """Sets fields of the checkpoint's generation config."""
    file = folder / "generation_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def report(run: Run, folder: Path, *options: str) -> Any:
    result = run(
        *("generate", "hello", "--model", folder, "-n", str(LENGTH), "--device", "cpu", "--json"), *options
    )
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def expected(folder: Path, **options: Any) -> list[int]:
    lm = hb.LM(*loading.load(folder))
    messages = [{"role": "user", "content": "hello"}]
    tokens: list[int] = lm.generate(messages, max_new_tokens=LENGTH, draft=None, **options).token_ids
    return tokens


GREEDY = hb.Warp(0.0)


@pytest.mark.parametrize("draft", ["none", "suffix"])
@pytest.mark.parametrize(
    ("options", "warp"),
    [
        (["--repetition-penalty", "1.7"], hb.Warp(0.0, repetition_penalty=1.7)),
        (["--frequency-penalty", "9"], hb.Warp(0.0, frequency_penalty=9.0)),
        (["--presence-penalty", "9"], hb.Warp(0.0, presence_penalty=9.0)),
        (
            ["--temperature", "0.8", "--top-k", "40", "--top-p", "0.9", "--min-p", "0.01"],
            hb.Warp(0.8, 40, 0.9, 0.01),
        ),
        (
            ["--temperature", "0.8", "--top-k", "40", "--frequency-penalty", "2"],
            hb.Warp(0.8, 40, frequency_penalty=2.0),
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_sampling(run: Run, folder: Path, options: list[str], warp: hb.Warp, draft: str) -> None:
    found = report(run, folder, "--draft", draft, "--seed", "3", *options)["token_ids"]
    assert found == expected(folder, warp=warp, seed=3)
    assert found != expected(folder, warp=GREEDY)


def test_what_the_checkpoint_asks_for_counts_where_the_flags_are_silent(run: Run, folder: Path) -> None:
    configure(folder, repetition_penalty=1.7, no_repeat_ngram_size=2)
    own = report(run, folder)["token_ids"]
    assert own == expected(folder)
    both = report(run, folder, "--presence-penalty", "0.01")["token_ids"]
    assert both == expected(folder, warp=hb.Warp(0.0, repetition_penalty=1.7, presence_penalty=0.01))
    assert both != expected(folder, warp=hb.Warp(0.0, presence_penalty=0.01))
    instead = report(run, folder, "--repetition-penalty", "1")["token_ids"]
    assert instead == expected(folder, warp=hb.Warp(0.0, repetition_penalty=1.0))
    assert instead != own


def test_a_penalty_beside_what_does_not_commute_is_refused(run: Run, folder: Path) -> None:
    configure(folder, exponential_decay_length_penalty=[3, 1.5], eos_token_id=7)
    result = run("generate", "hello", "--model", folder, "--repetition-penalty", "1.2")
    assert result.exit_code == 2
    assert "exponential_decay_length_penalty, which comes after it" in result.stderr


@pytest.mark.parametrize(
    ("options", "recipe"),
    [
        (["--keep", "snap_kv", "--keep-budget", "6"], hb.recipes.snap_kv(6)),
        (["--keep", "knorm", "--keep-budget", "30%"], hb.recipes.knorm("30%")),
        (["--keep", "int8"], hb.recipes.int8()),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_keep(run: Run, folder: Path, options: list[str], recipe: Any) -> None:
    assert report(run, folder, *options)["token_ids"] == expected(folder, keep=recipe)


@pytest.mark.parametrize(
    ("options", "recipe"),
    [
        (["--attend", "quest"], hb.recipes.quest()),
        (["--attend", "quest", "--attend-amount", "10%"], hb.recipes.quest("10%")),
        (["--attend", "window", "--attend-amount", "3"], hb.recipes.window(3)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_attend(run: Run, folder: Path, options: list[str], recipe: Any) -> None:
    found = report(run, folder, *options)
    assert found["token_ids"] == expected(folder, attend=recipe)
    assert found["stats"]["attend_keys"] >= found["stats"]["attend_keys_read"] > 0


def test_keep_with_scores_of_heads(run: Run, folder: Path, tmp_path: Path) -> None:
    """The floor that the file holds counts too."""
    split = hb.keep.HeadScores(((1.0, 5.0), (2.0, 0.5)), floor=0.9)
    split.save(tmp_path / "scores")
    options = ["--keep", "sparse_mm", "--keep-budget", "40%", "--head-scores", str(tmp_path / "scores")]
    from dataclasses import replace

    recipe = replace(hb.recipes.sparse_mm("40%", head_scores=split.scores), split=split)
    assert report(run, folder, *options)["token_ids"] == expected(folder, keep=recipe)


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ({}, []),
        ({"repetition_penalty": 1.6, "no_repeat_ngram_size": 2}, []),
        ({"repetition_penalty": 1.6}, ["--repetition-penalty", "1.1"]),
        ({"repetition_penalty": 1.6}, ["--repetition-penalty", "1"]),
        ({}, ["--repetition-penalty", "1.8"]),
        ({"suppress_tokens": list(range(90, 250)), "min_new_tokens": 5, "eos_token_id": 60}, []),
        ({"eos_token_id": list(range(1, 80))}, []),
        ({"forced_eos_token_id": 9, "eos_token_id": 9}, []),
        ({"do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 5}, []),
        ({"num_beams": 3, "early_stopping": True}, []),
        ({"encoder_repetition_penalty": 3.0, "guidance_scale": 4.0}, []),
        ({}, ["--top-k", "3"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_the_comparison_is_of_like_with_like(
    run: Run, folder: Path, fields: dict[str, Any], options: list[str]
) -> None:
    """What `LM.generate` honours of the checkpoint both sides have, and the rest neither. Red where plain
    transformers is left its own config, or none (both were tried)."""
    configure(folder, **fields)
    found = report(run, folder, "--compare", *options)
    assert found["compare"]["first_difference"] is None
    assert found["compare"]["identical"] is True
    assert found["compare"]["transformers"]["num_tokens"] == len(found["token_ids"])


def test_the_models_own_config_is_left_as_it_was(folder: Path) -> None:
    from hornbeam.bench.compare import plain_generate

    model, _ = loading.load(folder)
    own = model.generation_config
    plain_generate(model, [1, 2, 3], 2, {"suppress_tokens": [5]})
    assert model.generation_config is own


def test_a_comparison_needs_room_for_all_tokens(run: Run, folder: Path) -> None:
    result = run("generate", "hello" * 98, "--raw", "--model", folder, "-n", "24", "--compare")
    assert result.exit_code == 2
    assert (
        "--max-new-tokens is 24, expected at most 23 with --compare: the prompt has 490 tokens"
        in result.stderr
    )


def test_a_prompt_beyond_the_context_is_an_error(run: Run, folder: Path) -> None:
    result = run("generate", "hello" * 110, "--raw", "--model", folder)
    assert result.exit_code == 2
    assert result.stderr.startswith("hornbeam: prompt has 550 tokens, expected at most the model's 512")
