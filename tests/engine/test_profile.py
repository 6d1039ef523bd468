"""What was measured decides about speed alone, and a request keeps its kernels to its end."""

from __future__ import annotations

import pickle
import random
from pathlib import Path
from typing import Any

import pytest
import torch

import hornbeam as hb
from hornbeam.engine import requests as engine_requests
from hornbeam.engine.host import HostKeywords
from hornbeam.engine.measuring import CALIBRATION_ROWS
from hornbeam.errors import ArgumentError
from hornbeam.machine import kept
from hornbeam.machine.rows import LAST_ROWS
from hornbeam.model.attention import DENSE_KERNELS, TREE_KERNELS
from hornbeam.model.linear import KERNELS
from tests import models

NAMES = {"linear": KERNELS, "tree_attention": TREE_KERNELS, "dense_attention": DENSE_KERNELS}


def operations(lm: hb.LM) -> list[Any]:
    """Of a model that has read a prompt."""
    lm.generate([3, 4, 5], max_new_tokens=2)
    return list(lm.runner.switch._cells)


def poisoned(lm: hb.LM, seed: int) -> hb.Profile:
    """A profile whose choices, and costs, are drawn."""
    draw = random.Random(seed)
    profile = hb.Profile(learns=False)
    for operation in operations(lm):
        for bucket in range(len(LAST_ROWS) + 1):
            profile.choose(operation, bucket, draw.choice(NAMES[operation.kind]))
    profile.cost = [(rows, draw.random()) for rows in CALIBRATION_ROWS]
    return profile


def test_a_poisoned_profile_changes_no_text() -> None:
    model = models.llama()
    plain = hb.LM(model)
    wrong = hb.LM(model, profile=poisoned(plain, 0))
    draw = random.Random(0)
    for _ in range(20):
        prompt = [draw.randrange(1, models.VOCABULARY) for _ in range(draw.choice([1, 5, 40, 120]))]
        options: dict[str, Any] = {"max_new_tokens": 16, "temperature": draw.choice([0.0, 0.0, 1.0])}
        assert wrong.generate(prompt, **options).token_ids == plain.generate(prompt, **options).token_ids


@pytest.mark.model
def test_a_poisoned_profile_changes_no_text_of_the_default_model(default_model: tuple[Any, Any]) -> None:
    plain = hb.LM(*default_model)
    wrong = hb.LM(*default_model, profile=poisoned(plain, 3))
    options: dict[str, Any] = {"max_new_tokens": 10}
    for prompt in ("The capital of France is", "def is_prime(n):\n    "):
        assert wrong.generate(prompt, **options).token_ids == plain.generate(prompt, **options).token_ids


def test_a_request_keeps_its_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_requests, "RENEWAL_SECONDS", 0.0)
    profile = hb.Profile(learns=False)
    lm = hb.LM(models.llama(), profile=profile)
    expected = [
        hb.LM(lm.model, profile="off").generate(list(range(1, n)), max_new_tokens=20) for n in (9, 30, 5)
    ]
    [operation, *_] = operations(lm)
    used: list[Any] = []
    run = lm.runner.forward

    def forward(tree: Any, step: Any, **options: Any) -> Any:
        used.append(lm.runner.switch._kernels)
        return run(tree, step, **options)

    monkeypatch.setattr(lm.runner, "forward", forward)
    engine, old = lm.engine, profile.kernels
    first = engine.submit(list(range(1, 9)), max_new_tokens=20, draft=None)
    engine.step()
    profile.choose(operation, 0, "torch")
    second = engine.submit(list(range(1, 30)), max_new_tokens=20, draft=None)
    new = profile.kernels
    assert (first.kernels, second.kernels) == (old, new)
    engine.step()
    # Not a third choice while two are under way.
    profile.choose(operation, 1, "torch")
    third = engine.submit(list(range(1, 5)), max_new_tokens=20, draft=None)
    assert third.kernels is new
    found = [request.result() for request in (first, second, third)]
    assert [out.token_ids for out in found] == [out.token_ids for out in expected]
    assert used.count(old) == 20, "a step of its own each, since nobody else has its kernels"
    assert set(used) == {old, new}
    assert used[:4] == [old, new, old, new], "they take turns"
    lm.generate([1, 2], max_new_tokens=2)
    assert used[-1] is profile.kernels is not new


def test_an_engine_that_is_never_idle_takes_up_what_it_learned_later(monkeypatch: pytest.MonkeyPatch) -> None:
    profile = hb.Profile(learns=False)
    lm = hb.LM(models.llama(), profile=profile)
    [operation, *_] = operations(lm)
    engine = lm.engine
    first = engine.submit([1, 2, 3], max_new_tokens=20)
    profile.choose(operation, 0, "torch")
    assert engine.submit([1, 2, 4], max_new_tokens=4).kernels is first.kernels
    monkeypatch.setattr(engine_requests, "RENEWAL_SECONDS", 0.0)
    assert engine.submit([1, 2, 5], max_new_tokens=4).kernels is profile.kernels
    while engine.step():
        pass


@pytest.mark.parametrize("kind", ["generate", "score", "search", "beam"])
def test_every_kind_of_request_takes_up_what_was_learned(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    profile = hb.Profile(learns=False)
    lm = hb.LM(models.llama(), models.byte_tokenizer(), profile=profile)
    [operation, *_] = operations(lm)
    profile.choose(operation, 0, "torch")
    used: list[Any] = []
    run = lm.runner.forward

    def forward(tree: Any, step: Any, **options: Any) -> Any:
        used.append(lm.runner.switch._kernels)
        return run(tree, step, **options)

    monkeypatch.setattr(lm.runner, "forward", forward)
    if kind == "generate":
        lm.generate("a prompt", max_new_tokens=2)
    elif kind == "score":
        lm.score("a prompt", [" and more"])
    else:
        recipe = hb.recipes.beam(2) if kind == "beam" else hb.recipes.best_of_n(2, max_depth=1)
        lm.search("a prompt", recipe=recipe, budget=hb.Budget(tokens=8))
    assert used
    assert set(used) == {profile.kernels}


def test_a_model_that_changes_its_type_has_another_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HORNBEAM_CACHE", str(tmp_path))
    monkeypatch.setattr(kept, "_OPEN", {})
    model, prompt = models.llama(), [3, 4, 5] * 40
    lm = hb.LM(model, profile="on")
    lm.generate(prompt, max_new_tokens=20)
    before = lm.engine.profile
    model.to(torch.bfloat16)
    text = lm.generate(prompt, max_new_tokens=20).token_ids
    assert lm.engine.profile is not before
    assert text == hb.LM(model, profile="off").generate(prompt, max_new_tokens=20).token_ids
    assert {one.operation.dtype for one in lm.engine.profile.measured()} <= {"bfloat16"}


def test_learning_goes_on_from_process_to_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HORNBEAM_CACHE", str(tmp_path))
    monkeypatch.setenv("HORNBEAM_PROFILE", "on")
    monkeypatch.setattr(kept, "_OPEN", {})
    model, prompt = models.llama(), [3, 4, 5] * 10
    right = hb.LM(model, profile="off").generate(prompt, max_new_tokens=60)
    lm = hb.LM(model)
    for _ in range(3):
        assert lm.generate(prompt, max_new_tokens=60).token_ids == right.token_ids
    profile = lm.engine.profile
    assert isinstance(profile, kept.KeptProfile)
    assert profile.cost
    assert profile.measured()
    profile.keep(now=True)
    monkeypatch.setattr(kept, "_OPEN", {})
    later = hb.LM(model)
    assert later.engine.profile is not profile
    assert later.engine.profile is not None
    assert later.engine.profile.measured() == profile.measured()
    assert [rows for rows, _ in later.cost_curve.points()] == [rows for rows, _ in profile.cost]
    # A model of another shape has a file of its own.
    other = hb.LM(models.llama(layers=3)).engine.profile
    assert other is not None
    assert other.measured() == []


def test_another_number_of_threads_has_another_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HORNBEAM_CACHE", str(tmp_path))
    monkeypatch.setattr(kept, "_OPEN", {})
    lm = hb.LM(models.llama(), profile="on")
    before, threads = lm.engine.profile, torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        lm.generate([1, 2, 3], max_new_tokens=4)
        assert lm.engine.profile is not before
    finally:
        torch.set_num_threads(threads)
    lm.generate([1, 2, 3], max_new_tokens=4)
    assert lm.engine.profile is before


def test_nothing_is_measured_before_the_first_token(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = hb.LM(models.llama(), profile=hb.Profile())
    rows: list[int] = []
    run = lm.runner.forward

    def forward(tree: Any, step: Any, **options: Any) -> Any:
        rows.append(step.num_rows)
        return run(tree, step, **options)

    monkeypatch.setattr(lm.runner, "forward", forward)
    lm.generate([3, 4, 5] * 4, max_new_tokens=1)
    assert rows == [12]
    assert lm.cost_curve.points() == []
    lm.generate([3, 4, 5] * 4, max_new_tokens=40)
    assert rows[2:4] == [1, 1], "the first of all pays for allocations, the second is believed"
    assert lm.cost_curve.points()
    assert max(rows) < 64


def test_calibrate_measures_what_is_not_known() -> None:
    lm = hb.LM(models.llama(), profile=hb.Profile())
    lm.calibrate()
    points = lm.cost_curve.points()
    assert [rows for rows, _ in points] == list(CALIBRATION_ROWS)
    lm.calibrate()
    assert lm.cost_curve.points() == points
    lm.calibrate(force=True)
    assert lm.cost_curve.points() != points
    assert lm.engine.profile is not None
    assert len(lm.engine.profile.cost) == len(CALIBRATION_ROWS)


def test_all_kernels_are_compared_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hornbeam.engine.measuring.KERNEL_ROWS", (1, 8, 100))
    told: list[float] = []
    profile = hb.Profile()
    lm = hb.LM(models.llama(), profile=profile)
    lm.calibrate(kernels=True, progress=lambda _what, share: told.append(share))
    known = profile.measured()
    linears = {one.operation for one in known if one.operation.kind == "linear"}
    assert linears == set(lm.runner.switch.operations)
    for operation in linears:
        assert [one.rows for one in known if one.operation == operation] == [1, 8, 128]
    assert {one.operation.kind for one in known} == set(NAMES)
    assert told == sorted(told)
    assert len(told) == 3
    with pytest.raises(ArgumentError, match="kernels is True without a profile that learns"):
        hb.LM(lm.model, profile="off").calibrate(kernels=True)


def test_what_an_engine_was_made_with_makes_another_one(tmp_path: Path) -> None:
    """As where a model is sent to another process."""
    profile = hb.Profile(learns=False)
    given: HostKeywords = {
        "kv_dtype": torch.bfloat16,
        "max_kv_bytes": 1 << 20,
        "page_tokens": 8,
        "prefill_rows": 64,
        "cuda_graphs": False,
        "profile": profile,
        "batch_invariant": False,
    }
    assert set(given) == set(HostKeywords.__annotations__)
    lm = hb.LM(models.llama(), **given)
    assert lm.engine.settings == given
    [operation, *_] = operations(lm)
    profile.choose(operation, 0, "torch")
    profile.record(operation, 1, "hornbeam", {"hornbeam": 2.0, "torch": 1.0})
    profile.cost = [(1, 0.5), (8, 0.75)]
    kept_one = kept.KeptProfile(tmp_path / "profile.json", {})
    kept_one.take(profile.contents())
    for own in (profile, kept_one):
        sent = pickle.loads(pickle.dumps(own))
        assert type(sent) is hb.Profile, "what it learns elsewhere is not of this machine"
        assert (sent.learns, sent.cost, sent.measured()) == (own.learns, profile.cost, profile.measured())
        assert sent.kernels.of(operation, 0, "hornbeam") == "torch"


def test_profiles_that_are_none_are_refused(tmp_path: Path) -> None:
    model = models.llama()
    with pytest.raises(ArgumentError, match="expected a file of a profile, 'on' or 'off'"):
        hb.LM(model, profile="of")
    with pytest.raises(ArgumentError, match="profile is a int, expected a Profile"):
        hb.LM(model, profile=3)  # type: ignore[arg-type]
    profile = hb.Profile()
    [operation, *_] = operations(hb.LM(model, profile=profile))
    profile.choose(operation, 0, "amx")
    profile.save(tmp_path / "foreign.json")
    with pytest.raises(ArgumentError, match="the profile has the kernel 'amx' for"):
        hb.LM(model, profile=tmp_path / "foreign.json")
