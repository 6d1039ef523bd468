"""``LM(batch_invariant=True)``: the same bits alone and beside others, in one pass or in many, on any number
of threads, with drafts or without."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import hornbeam as hb
from hornbeam.errors import ArgumentError, UnsupportedModel
from hornbeam.model import invariance
from tests import models
from tests.engine.requests import RECYCLING

#: Of these all products are linear layers, and rows are whole numbers of torch's vectors.
INVARIANT = [models.llama, models.mistral, models.qwen2, models.qwen3, models.gemma2, models.gemma3]
CASES = [(build, torch.float32) for build in INVARIANT]
CASES += [(build, torch.bfloat16) for build in (models.llama, models.gemma3)]


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def one_vector(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny models have heads of 16 numbers, which are less than two vectors of some processors: their
    sines stay exact here, since a pass of a tiny model is no longer than one thread's share."""
    monkeypatch.setitem(invariance.VECTOR_BYTES, torch.backends.cpu.get_cpu_capability(), 32)


def logits(lm: hb.LM, texts: list[list[int]], *, together: bool, rows: int) -> list[torch.Tensor]:
    """The logits ``[tokens, V]`` of each text, read in passes of at most so many rows of it, one text after
    the other or all of them side by side."""
    tree, found = lm.tree, [[] for _ in texts]
    branches = [tree.branch() for _ in texts]
    at = [0] * len(texts)
    groups = [list(range(len(texts)))] if together else [[i] for i in range(len(texts))]
    for group in groups:
        while any(at[i] < len(texts[i]) for i in group):
            here = [i for i in group if at[i] < len(texts[i])]
            parts = [texts[i][at[i] : at[i] + rows] for i in here]
            with tree.step([(branches[i], part, None) for i, part in zip(here, parts, strict=True)]) as step:
                out = lm.runner.forward(tree, step)
                step.commit([range(len(part)) for part in parts])
            begin = 0
            for i, part in zip(here, parts, strict=True):
                found[i].append(out.logits[begin : begin + len(part)].clone())
                begin, at[i] = begin + len(part), at[i] + len(part)
    for branch in branches:
        branch.drop()
    return [torch.cat(parts) for parts in found]


def same_bits(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(("build", "dtype"), CASES, ids=lambda case: getattr(case, "__name__", str(case)))
def test_bits_do_not_depend_on_what_shares_a_pass(build: Any, dtype: torch.dtype, threads: None) -> None:
    lm = hb.LM(build().to(dtype), batch_invariant=True)
    texts = [models.prompt(length, seed)[0].tolist() for seed, length in enumerate((40, 7, 66, 1))]
    torch.set_num_threads(1)
    expected = logits(lm, texts, together=False, rows=1)
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        for together, rows in ((True, 1), (True, 7), (False, 40), (True, 200)):
            assert same_bits(logits(lm, texts, together=together, rows=rows), expected), (count, rows)
        assert torch.get_num_threads() == count


def test_the_usual_mode_rounds_otherwise() -> None:
    """Else the test above would show nothing."""
    lm = hb.LM(models.llama())
    texts = [models.prompt(length, seed)[0].tolist() for seed, length in enumerate((64, 7, 130))]
    single = logits(lm, texts, together=False, rows=1)
    assert not same_bits(logits(lm, texts, together=True, rows=200), single)


@pytest.mark.model
def test_the_default_model(default_model: tuple[Any, Any], threads: None) -> None:
    lm = hb.LM(*default_model, batch_invariant=True)
    text = lm.tokenizer("The cost of a pass is what it reads. " * 12)["input_ids"][:100]
    torch.set_num_threads(1)
    expected = logits(lm, [text[:10]], together=False, rows=1)
    for count in (2, 3):
        torch.set_num_threads(count)
        for texts, rows in (([text[:10]], 10), ([text[:10], text, text[3:60]], 7), ([text[:10], text], 64)):
            found = logits(lm, texts, together=True, rows=rows)[0]
            assert torch.equal(found, expected[0]), (count, rows)


def test_log_probabilities_have_the_same_bits_with_drafts_and_neighbours() -> None:
    lm = hb.LM(models.llama(), batch_invariant=True)
    prompts = [models.prompt(length, seed)[0].tolist() for seed, length in enumerate((5, 40, 120, 33))]
    options: dict[str, Any] = {"max_new_tokens": 24, "logprobs": 3, "temperature": 0.8}
    alone = [hb.LM(lm.model, batch_invariant=True).generate(p, draft=None, **options) for p in prompts]
    for draft in ({}, {"draft": None}, RECYCLING):
        together = lm.generate(prompts, **draft, **options)
        for one, other in zip(alone, together, strict=True):
            assert one.token_ids == other.token_ids
            assert one.logprobs == other.logprobs


@pytest.mark.parametrize("options", [{"keep": "snap_kv"}, {"attend": "quest"}], ids=str)
def test_recipes(options: dict[str, Any]) -> None:
    lm = hb.LM(models.llama(), batch_invariant=True)
    prompts = [models.prompt(length, seed)[0].tolist() for seed, length in enumerate((90, 40, 300))]
    given: dict[str, Any] = {"max_new_tokens": 16, "logprobs": 0, "draft": None, **options}
    alone = [hb.LM(lm.model, batch_invariant=True).generate(prompt, **given) for prompt in prompts]
    for one, other in zip(alone, lm.generate(prompts, **given), strict=True):
        assert (one.token_ids, one.logprobs) == (other.token_ids, other.logprobs)


def test_the_text_is_that_of_the_usual_mode() -> None:
    model = models.llama()
    for seed in range(4):
        prompt = models.prompt(30 + 40 * seed, seed)[0].tolist()
        usual = hb.LM(model).generate(prompt, max_new_tokens=20).token_ids
        assert hb.LM(model, batch_invariant=True).generate(prompt, max_new_tokens=20).token_ids == usual


def test_two_threads_drive_one_engine() -> None:
    """Threads of torch are set on the thread that runs a pass, and on no other."""
    lm = hb.LM(models.llama(), batch_invariant=True)
    prompts = [models.prompt(20 + i, i)[0].tolist() for i in range(4)]
    expected = [lm.generate(prompt, max_new_tokens=12).token_ids for prompt in prompts]
    found: dict[int, Any] = {}

    def work(i: int) -> None:
        found[i] = (lm.generate(prompts[i], max_new_tokens=12).token_ids, torch.get_num_threads())

    before = torch.get_num_threads()
    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert found == {i: (expected[i], before) for i in range(4)}


def test_threads_are_given_back_after_a_failure() -> None:
    lm = hb.LM(models.llama(), batch_invariant=True)
    before = torch.get_num_threads()

    def fail(module: Any, arguments: Any, output: Any) -> None:
        raise RuntimeError("a hook fails")

    handle = lm.model.model.norm.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="a hook fails"):
        lm.generate([1, 2, 3], max_new_tokens=2)
    handle.remove()
    assert torch.get_num_threads() == before
    assert lm.generate([1, 2, 3], max_new_tokens=2).token_ids


@pytest.mark.parametrize(
    "build", [models.mixtral, models.qwen3_moe, models.gpt_oss], ids=lambda b: b.__name__
)
def test_products_without_a_kernel_are_refused(build: Any) -> None:
    with pytest.raises(UnsupportedModel, match="batch_invariant"):
        hb.LM(build(), batch_invariant=True)


def test_rows_of_other_sizes_than_vectors_are_refused() -> None:
    config = models.llama().config
    config.intermediate_size = 90
    with pytest.raises(UnsupportedModel, match=r"outputs of model\.layers\.0\.mlp\.gate_proj are 90"):
        hb.LM(models.build(config), batch_invariant=True)


def test_a_layer_that_computes_rows_together_is_refused() -> None:
    model = models.llama()

    def mix(module: Any, arguments: Any, output: torch.Tensor) -> torch.Tensor:
        return output * (1.0 + 1e-6 * output.shape[1])

    model.model.norm.register_forward_hook(mix)
    with pytest.raises(UnsupportedModel, match="other bits"):
        hb.LM(model, batch_invariant=True)


def test_what_it_does_not_go_with_is_refused_by_name() -> None:
    lm = hb.LM(models.llama(), batch_invariant=True)
    with pytest.raises(ArgumentError, match="prefill is given with batch_invariant"):
        lm.generate([1, 2, 3], max_new_tokens=2, prefill="flex_prefill")
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(ArgumentError, match=r"torch\.autocast"):
        lm.generate([1, 2, 3], max_new_tokens=2)
    with pytest.raises(ArgumentError, match="kernels is True"):
        lm.calibrate(kernels=True)
    wrong: Any = "yes"
    with pytest.raises(ArgumentError, match="batch_invariant is 'yes'"):
        hb.LM(models.llama(), batch_invariant=wrong)


def test_a_layer_that_is_exchanged_for_one_without_a_kernel_is_refused() -> None:
    lm = hb.LM(models.llama(), batch_invariant=True)
    layer = lm.model.model.layers[1].mlp
    layer.down_proj = torch.nn.utils.parametrizations.weight_norm(layer.down_proj)
    with pytest.raises(UnsupportedModel, match="batch_invariant"):
        lm.generate([1, 2, 3], max_new_tokens=2)
