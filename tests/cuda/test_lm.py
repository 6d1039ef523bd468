"""The whole main job through the kernels: an LM whose device is the host emulation.

Prefill, drafts, forward, verification, commit, rollback and scores run on the CUDA route, with a
:class:`~hornbeam.cuda.DevicePlan` a step; torch's own parts stay torch's. The text is that of the CPU.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
import torch

import hornbeam as hb
from hornbeam import _native, cuda, ops
from hornbeam.cache import step
from hornbeam.cuda import decide, device, plans
from hornbeam.errors import CudaError
from tests import models
from tests.cuda.emulator import emulation
from tests.drafts import Foresight

SAMPLING = dict(temperature=0.9, top_k=40, top_p=0.95, seed=7)
NEW_TOKENS = 16


@pytest.fixture(scope="module")
def model() -> Any:
    return models.llama()


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """The emulation as the device; counts what was launched."""
    counts: Counter[str] = Counter()

    def count(name: str) -> None:
        call = getattr(_native, name)

        def counted(*arguments: Any) -> None:
            counts[name] += 1
            call(*arguments)

        monkeypatch.setattr(_native, name, counted)

    for name in (
        "cuda_write_rows",
        "cuda_tree_attention",
        "cuda_sample",
        "cuda_follow",
        "cuda_move_rows",
        "cuda_select_keys",
    ):
        count(name)
    emulation().seed(3)
    with cuda.emulated(emulation().lane):
        yield counts


def prompts() -> list[list[int]]:
    """Ragged: one of them long enough for torch's dense attention, two that share a prefix."""
    return [models.prompt(n, seed)[0].tolist() for n, seed in ((40, 1), (110, 2), (7, 3), (40, 1))]


def texts_on_the_cpu(model: Any, dtype: torch.dtype, **options: Any) -> list[list[int]]:
    lm = hb.LM(model, kv_dtype=dtype)
    outs = lm.generate(prompts(), max_new_tokens=NEW_TOKENS, draft=None, **options)
    return [out.token_ids for out in outs]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("options", [{}, SAMPLING], ids=["greedy", "sampled"])
def test_the_text_is_that_of_the_cpu(
    model: Any, dtype: torch.dtype, options: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    want = texts_on_the_cpu(model, dtype, **options)
    launches = request.getfixturevalue("launches")
    lm = hb.LM(model, kv_dtype=dtype)
    plain = lm.generate(prompts(), max_new_tokens=NEW_TOKENS, draft=None, **options)
    assert [out.token_ids for out in plain] == want
    known = Foresight([p + text for p, text in zip(prompts(), want, strict=True)], wrong=4)
    drafted = lm.generate(
        prompts(), max_new_tokens=NEW_TOKENS, draft=known, length=hb.spec.Fixed(5), **options
    )
    assert [out.token_ids for out in drafted] == want
    assert sum(out.stats.accepted for out in drafted) > 12
    alone = lm.generate(
        prompts()[1], max_new_tokens=NEW_TOKENS, draft=known, length=hb.spec.Fixed(3), **options
    )
    assert alone.token_ids == want[1]
    layers = lm.runner.shape.num_layers
    assert launches["cuda_tree_attention"] > layers * (NEW_TOKENS - 1)
    assert launches["cuda_write_rows"] > launches["cuda_tree_attention"]  # dense prefill reads no page
    assert launches["cuda_sample"] == launches["cuda_follow"] > NEW_TOKENS
    lm.tree.debug_check()


def test_scores_are_those_of_the_cpu(model: Any, request: pytest.FixtureRequest) -> None:
    prompt = models.prompt(30)[0].tolist()
    continuations = [[3], [5, 9, 11], [200, 1]]
    want = hb.LM(model).score(prompt, continuations)
    launches = request.getfixturevalue("launches")
    got = hb.LM(model).score(prompt, continuations)
    for one, other in zip(got, want, strict=True):
        assert one.token_logprobs == pytest.approx(other.token_logprobs, abs=1e-4)
    assert launches["cuda_tree_attention"] > 0


def test_a_failing_step_rolls_back(model: Any, launches: Counter[str]) -> None:
    lm = hb.LM(model)
    prompt = models.prompt(20)[0].tolist()
    before = lm.generate(prompt, max_new_tokens=8, draft=None).token_ids

    def fail(*_: Any) -> bool:
        raise RuntimeError("asked to fail")

    with pytest.raises(RuntimeError, match="asked to fail"):
        lm.generate(prompt, max_new_tokens=8, draft=None, stopping_criterion=fail)
    assert lm.tree.stats()["branches"] == 0
    assert lm.generate(prompt, max_new_tokens=8, draft=None).token_ids == before
    lm.tree.debug_check()


class OnDevice(torch.Tensor):
    """A tensor of the device: what is computed from one is one, and numbers that leave it are counted."""

    READS = ("tolist", "item", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__", "nonzero")
    reads: ClassVar[list[str]] = []

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(function, "__name__", "") in cls.READS:
            cls.reads.append(function.__name__)
        found = super().__torch_function__(function, types, args, kwargs or {})
        return found.as_subclass(torch.Tensor) if getattr(function, "__name__", "") == "cpu" else found


def test_a_step_reads_the_device_once(
    model: Any, launches: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the draft to the commit the host takes one thing from the device: the verdicts."""
    upload, read, make = cuda.upload, decide.Outputs.read, decide.Outputs.__init__
    verdicts = 0
    OnDevice.reads = []

    def marked_outputs(self: decide.Outputs, *arguments: Any) -> None:
        make(self, *arguments)
        self.buffer = self.buffer.as_subclass(OnDevice)
        self.next_token, self.num_accepted, self.fault_rows, self.accepted = self._parts(self.buffer)

    def marked(*arguments: Any) -> list[torch.Tensor]:
        return [tensor.as_subclass(OnDevice) for tensor in upload(*arguments)]

    def counted(*arguments: Any) -> Any:
        nonlocal verdicts
        verdicts += 1
        return read(*arguments)

    for module in (cuda, decide, plans, step):
        monkeypatch.setattr(module, "upload", marked)
    monkeypatch.setattr(decide.Outputs, "read", counted)
    monkeypatch.setattr(decide.Outputs, "__init__", marked_outputs)
    verify = cuda.verify

    def marked_logits(*arguments: Any, **options: Any) -> Any:
        assert type(arguments[3]) is OnDevice  # or the test would not see what leaves the model
        return verify(*arguments, **options)

    monkeypatch.setattr(cuda, "verify", marked_logits)
    lm = hb.LM(model)
    text = models.prompt(60)[0].tolist()
    for draft in (None, Foresight([text])):
        verdicts = 0
        OnDevice.reads = []
        out = lm.generate(text[:30], max_new_tokens=10, draft=draft, length=hb.spec.Fixed(4), temperature=0.8)
        assert verdicts == 1 + out.stats.forward_passes
        assert OnDevice.reads == ["cpu"] * verdicts


def test_a_step_of_a_ratio_test_is_verified_once(
    model: Any, launches: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where some sequences have no draft, as before their last token."""
    batches: list[list[int]] = []
    verify = cuda.verify

    def counted(*arguments: Any, **options: Any) -> Any:
        batches.append(arguments[2].diff().tolist())
        return verify(*arguments, **options)

    monkeypatch.setattr(cuda, "verify", counted)
    lm = hb.LM(model)
    texts = [models.prompt(n, n)[0].tolist() for n in (30, 9, 12)]
    draft = hb.spec.SmallModel(hb.LM(models.llama(seed=5)))
    options = {"draft": draft, "verify": "chain", "length": hb.spec.Fixed(4), "temperature": 0.8}
    outs = lm.generate(texts, max_new_tokens=10, **options)
    assert len(batches) == 1 + max(out.stats.forward_passes for out in outs)
    assert any(0 in sizes and max(sizes) > 0 for sizes in batches)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_without_a_device_nothing_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_lane", None)
    monkeypatch.setattr("hornbeam.model.loading.resolve", lambda *_, **__: pytest.fail("a model was loaded"))
    reason = cuda.status()["reason"]
    with pytest.raises(CudaError) as caught:
        hb.LM.from_pretrained("smollm2", device="cuda")
    assert str(caught.value) == reason
    with pytest.raises(CudaError):
        hb.LM.from_pretrained("smollm2", device="cuda:1")


#: Scores that read queries, keys, values and nothing; what drops, merges and encodes; once and often.
RECIPES: dict[str, Any] = {
    "streaming_llm": lambda: hb.recipes.streaming_llm(budget=24),
    "h2o": lambda: hb.recipes.h2o(budget=24),
    "tova": lambda: hb.recipes.tova(budget=24, every=4),
    "snap_kv": lambda: hb.recipes.snap_kv(budget=24),
    "rotated": lambda: dataclasses.replace(hb.recipes.snap_kv(budget=24), rerotate=True),
    "ada_kv": lambda: hb.recipes.ada_kv(budget="25%"),
    "window_kv": lambda: hb.recipes.window_kv(budget=24),
    "expected_attention": lambda: hb.recipes.expected_attention(budget=24),
    "expected, weighted twice": lambda: hb.keep.Recipe(
        hb.keep.ValueWeighted(hb.keep.ExpectedAttention(64)), 24
    ),
    "key_diff": lambda: hb.recipes.key_diff(budget=24),
    "knorm": lambda: hb.recipes.knorm(budget=24),
    "python": lambda: hb.keep.Recipe(Largest(), 24),
    "python, weighted": lambda: often(hb.keep.Recipe(hb.keep.ValueWeighted(Largest()), 24)),
    "reduced in python": lambda: merging(Averaged()),
    "split in python": lambda: often(hb.keep.Recipe(hb.keep.KeyNorm(), 24, Steep())),
    "ems": lambda: hb.recipes.ems(budget=24),
    "values merged": lambda: merging(hb.keep.ValueMerge()),
    "by similarity": lambda: merging(hb.keep.SimilarityMerge()),
    "merged and rotated": lambda: dataclasses.replace(
        merging(hb.keep.EvictThenMerge(2.0, 0.1)), rerotate=True
    ),
    "zip_cache": lambda: often(hb.recipes.zip_cache(budget="70%")),
    "kivi": lambda: often(hb.recipes.kivi(budget="100%")),
    "int8": lambda: often(hb.recipes.int8(budget="60%")),
    "coded, then python": lambda: often(hb.keep.Recipe(Largest(), "90%", reduce=hb.keep.TokenBits())),
}


class Largest(hb.keep.Score):
    """A score in Python, which is given keys, values and queries on the CPU."""

    num_rows: ClassVar[int] = 4

    def scores(self, keys: Any, values: Any, queries: Any, scale: float) -> Any:
        seen = queries.unflatten(2, (keys.shape[2], -1)).mean((3, 4))
        return ((keys * seen[:, :, :, None]).sum(-1) + values.abs().amax(-1)).transpose(0, 1)


class Averaged(hb.keep.Reduce):
    """A reduction in Python, which is given keys, values and scores on the CPU."""

    def reduce(self, keys: Any, values: Any, scores: Any, kept: Any) -> hb.keep.Reduced:
        mean = (values * scores.tanh()[:, None]).mean(0)
        return hb.keep.Reduced(kept, keys[kept], values[kept] + mean)


class Steep(hb.keep.Split):
    """A split in Python, which is given scores on the CPU."""

    def budgets(self, scores: Any, total: int, protected: Any = (0, 0, 0)) -> Any:
        shares = torch.arange(1, 1 + scores[..., 0].numel()).view(scores.shape[:2])
        return total * shares // shares.sum()


def often(recipe: hb.keep.Recipe) -> hb.keep.Recipe:
    return dataclasses.replace(recipe, when=hb.keep.EveryTokens(5))


def merging(reduce: hb.keep.Reduce) -> hb.keep.Recipe:
    return dataclasses.replace(hb.recipes.h2o(budget=24), reduce=reduce)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_kept_is_what_the_cpu_keeps(
    model: Any, name: str, dtype: torch.dtype, request: pytest.FixtureRequest
) -> None:
    """Recipes on the device: mass by key, scores, compaction, codes and merged keys. Kept sets, bytes of the
    pages and text are those of the CPU."""
    ended: list[Any] = []
    close = hb.engine.request.Request.close

    def closing(sequence: Any) -> None:
        if sequence._branch is not None and sequence.output:
            table = sequence.branch.tree.key_table(sequence.branch)
            rows = ops.gather_rows(sequence.branch.tree.chunks, table.counts, table.entries)
            shown = table.counts.tolist(), table.formats.tolist(), table.positions.tolist()
            ended.append((*shown, *rows))
        close(sequence)

    request.getfixturevalue("monkeypatch").setattr(hb.engine.request.Request, "close", closing)
    options = {"max_new_tokens": NEW_TOKENS, "draft": None, "keep": RECIPES[name]()}

    def seen(lm: hb.LM) -> list[Any]:
        ended.clear()
        outs = lm.generate(prompts(), **options)
        return [
            (out.token_ids, out.stats.reductions, out.stats.kept_share, out.stats.kv_bytes) for out in outs
        ]

    want = seen(hb.LM(model, kv_dtype=dtype, page_tokens=4))
    held = list(ended)
    launches = request.getfixturevalue("launches")
    lm = hb.LM(model, kv_dtype=dtype, page_tokens=4)
    assert seen(lm) == want
    assert want[1][1] > 0  # the longest prompt
    assert launches["cuda_tree_attention"] > 0
    assert launches["cuda_select_keys"] > 0 or name == "split in python"
    assert len(held) == len(prompts())
    for mine, theirs in zip(ended, held, strict=True):
        assert mine[:3] == theirs[:3]
        # Attention sums in another order, so later keys differ by rounding: of their type, then of codes.
        for got, expected in zip(mine[3:], theirs[3:], strict=True):
            assert (got - expected).abs().max() <= 0.05 * expected.abs().max()
    lm.tree.debug_check()
