"""Processors and criteria inside ``model.generate`` see what transformers shows them, in its order."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList
from transformers.generation.configuration_utils import SynthIDTextWatermarkingConfig

import hornbeam as hb
from hornbeam.errors import ShapeError
from tests import models

loop = hb.integrations.transformers.generate
LENGTHS = {"one": [12], "one_token": [1], "batch": [5, 12, 9], "alike": [7, 7], "tokens": [1, 1, 1]}
DRAFTERS = [None, hb.spec.Suffix(), hb.spec.Auto(), "small"]


@pytest.fixture(scope="module")
def model() -> Any:
    return models.llama()


@pytest.fixture(scope="module")
def small() -> Any:
    return hb.LM(models.llama(layers=1))


def padded(lengths: list[int], width: int | None = None) -> dict[str, torch.Tensor]:
    prompts = [models.prompt(n, n)[0] for n in lengths]
    width = max(lengths) if width is None else width
    ids = torch.stack([torch.nn.functional.pad(p, (width - len(p), 0)) for p in prompts])
    mask = torch.stack([torch.arange(width) >= width - len(p) for p in prompts]).long()
    return {"input_ids": ids, "attention_mask": mask}


class Counting(LogitsProcessor):
    """Keeps what it was asked, and writes into the scores by how often that was."""

    def __init__(self) -> None:
        self.asked: list[list[list[int]]] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.asked.append(input_ids.tolist())
        scores[:, len(self.asked) % 3 :: 3] = -torch.inf
        return scores


class EndsRows(StoppingCriteria):
    """Ends a row after a token above 150, and every row with the fifteenth call."""

    def __init__(self) -> None:
        self.asked: list[list[list[int]]] = []

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        self.asked.append(input_ids.tolist())
        return (input_ids[:, -1] > 220) | (len(self.asked) == 15)


def drafter_of(drafter: Any, small: Any) -> Any:
    return hb.spec.SmallModel(small) if drafter == "small" else drafter


@pytest.mark.parametrize("drafter", DRAFTERS, ids=lambda d: type(d).__name__)
@pytest.mark.parametrize("name", LENGTHS)
@pytest.mark.parametrize("eos", [None, [3, 5, 8]], ids=["no_eos", "eos"])
@pytest.mark.parametrize("ends", [False, True])
def test_what_keeps_state(
    model: Any, small: Any, name: str, drafter: Any, ends: bool, eos: list[int] | None
) -> None:
    found = []
    for options in ({"custom_generate": loop, "drafter": drafter_of(drafter, small)}, {}):
        processor, criterion = Counting(), EndsRows()
        ids = model.generate(
            **padded(LENGTHS[name], 14 if name == "one" else None),
            logits_processor=LogitsProcessorList([processor]),
            stopping_criteria=StoppingCriteriaList([criterion] if ends else []),
            do_sample=False,
            max_new_tokens=20,
            eos_token_id=eos,
            pad_token_id=0,
            **options,
        )
        found.append((ids.tolist(), processor.asked, criterion.asked))
    ours, theirs = found
    assert ours[0] == theirs[0]
    # Rows that have ended are padded in both; ours stops asking with the last token.
    assert ours[1] == theirs[1]
    assert ours[2] == theirs[2]


@pytest.mark.parametrize("drafter", DRAFTERS, ids=lambda d: type(d).__name__)
@pytest.mark.parametrize("name", ["one", "batch"])
@pytest.mark.parametrize(
    "options",
    [
        {"guidance_scale": 1.5},
        {"guidance_scale": 2.0, "repetition_penalty": 1.2},
        {"encoder_repetition_penalty": 1.4},
        {"encoder_no_repeat_ngram_size": 2},
        {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2},
        {"min_new_tokens": 8, "eos_token_id": list(range(1, 200))},
        {"min_length": 20, "eos_token_id": list(range(1, 200))},
        {"exponential_decay_length_penalty": (3, 1.6), "eos_token_id": 7},
    ],
    ids=lambda options: next(iter(options)),
)
def test_fields(model: Any, small: Any, name: str, drafter: Any, options: dict[str, Any]) -> None:
    options = {"do_sample": False, "max_new_tokens": 14, "pad_token_id": 0, **options}
    inputs = padded(LENGTHS[name])
    ours = model.generate(**inputs, custom_generate=loop, drafter=drafter_of(drafter, small), **options)
    assert torch.equal(ours, model.generate(**inputs, **options))


@pytest.mark.parametrize("name", ["one", "batch"])
def test_allowed_tokens_by_row(model: Any, name: str) -> None:
    def allowed(batch_id: int, sent: torch.Tensor) -> list[int]:
        return list(range(batch_id + 1 + len(sent) % 2, 250, 3 + batch_id))

    options: dict[str, Any] = {"do_sample": False, "max_new_tokens": 12, "pad_token_id": 0}
    options["prefix_allowed_tokens_fn"] = allowed
    ours = model.generate(**padded(LENGTHS[name]), custom_generate=loop, **options)
    assert torch.equal(ours, model.generate(**padded(LENGTHS[name]), **options))


@pytest.mark.parametrize("name", ["one", "batch"])
def test_a_watermark(model: Any, name: str) -> None:
    """Its law cannot be compared token by token: the scores that it gives are, along our text."""
    config = SynthIDTextWatermarkingConfig(keys=[3, 5, 7, 11], ngram_len=3)
    options: dict[str, Any] = {"do_sample": True, "max_new_tokens": 12, "pad_token_id": 0}
    ours = model.generate(
        **padded(LENGTHS[name]), custom_generate=loop, watermarking_config=config, sampling_seed=3, **options
    )
    again = model.generate(
        **padded(LENGTHS[name]), custom_generate=loop, watermarking_config=config, sampling_seed=3, **options
    )
    assert torch.equal(ours, again)
    plain = model.generate(**padded(LENGTHS[name]), custom_generate=loop, sampling_seed=3, **options)
    assert not torch.equal(ours, plain)
    processor = config.construct_processor(256, "cpu")
    width = padded(LENGTHS[name])["input_ids"].shape[1]
    with torch.inference_mode():
        for at in range(width, ours.shape[1]):
            logits = torch.zeros(len(ours), 256)
            assert (processor(ours[:, :at], logits) > -torch.inf).all()


def test_a_failing_processor_ends_them_all(model: Any) -> None:
    class Fails(Counting):
        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            if len(self.asked) == 3:
                raise RuntimeError("enough")
            return super().__call__(input_ids, scores)

    options: dict[str, Any] = {"custom_generate": loop, "max_new_tokens": 9, "do_sample": False}
    with pytest.raises(RuntimeError, match="enough"):
        model.generate(**padded([5, 9]), logits_processor=LogitsProcessorList([Fails()]), **options)
    engine = model._hornbeam.lm.engine
    assert engine.requests == []
    assert engine.tree.stats()["branches"] == 0


def test_an_answer_of_another_shape(model: Any) -> None:
    class Wrong(LogitsProcessor):
        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            return scores[:, :7]

    options: dict[str, Any] = {"custom_generate": loop, "max_new_tokens": 9, "do_sample": False}
    for lengths, shape in (([6], 1), ([6, 4], 2)):
        with pytest.raises(ShapeError, match=rf"Wrong gave \[{shape}, 7\], expected logits \[{shape}, 256\]"):
            model.generate(**padded(lengths), logits_processor=LogitsProcessorList([Wrong()]), **options)


def test_other_requests_go_on_beside_a_batch(model: Any) -> None:
    model = models.llama()
    want = hb.LM(model).generate(models.prompt(20, 3)[0].tolist(), max_new_tokens=30, draft=None).token_ids
    model.generate(**padded([4]), custom_generate=loop, max_new_tokens=1, do_sample=False)
    engine = model._hornbeam.lm.engine
    request = engine.submit(models.prompt(20, 3)[0].tolist(), max_new_tokens=30, draft=None)
    engine.step()
    options: dict[str, Any] = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    ours = model.generate(
        **padded([5, 9]), custom_generate=loop, logits_processor=LogitsProcessorList([Counting()]), **options
    )
    theirs = model.generate(**padded([5, 9]), logits_processor=LogitsProcessorList([Counting()]), **options)
    assert torch.equal(ours, theirs)
    assert len(request.output) > 5
    assert request.result().token_ids == want


def test_a_neighbour_that_fails_has_the_batch_asked_once() -> None:
    """The step of both is taken back, and taken again without it."""
    model = models.llama()
    model.generate(**padded([4]), custom_generate=loop, max_new_tokens=1, do_sample=False)
    engine, calls, bad = model._hornbeam.lm.engine, [0], []

    def fail(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        calls[0] += 1
        raise RuntimeError("enough")

    class BringsIt(Counting):
        """Submits the other request when it is asked first, so that it comes after the batch in each step."""

        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            if not bad:
                bad.append(engine.submit([5, 6, 7], max_new_tokens=30, draft=None, logits_processor=fail))
            return super().__call__(input_ids, scores)

    found = []
    for processor, more in ((BringsIt(), {"custom_generate": loop}), (Counting(), {})):
        criterion = EndsRows()
        options: dict[str, Any] = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, **more}
        ids = model.generate(
            **padded([5, 9]),
            logits_processor=LogitsProcessorList([processor]),
            stopping_criteria=StoppingCriteriaList([criterion]),
            **options,
        )
        found.append((ids.tolist(), processor.asked, criterion.asked))
    with pytest.raises(RuntimeError, match="enough"):
        bad[0].result()
    assert calls[0] == 1
    assert found[0] == found[1]
