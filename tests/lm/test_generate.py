"""LM.generate: what its arguments promise, and what happens when something goes wrong."""

from __future__ import annotations

import pytest
import torch

import hornbeam as hb
from hornbeam.errors import ArgumentError, LogitsError, OutOfPages, StateError
from tests import models
from tests.drafts import Foresight


@pytest.fixture(scope="module")
def model():
    return models.llama()


@pytest.fixture
def lm(model):
    return hb.LM(model)


def ids(length, seed=0):
    return models.prompt(length, seed)[0].tolist()


def repetitive(length=60, seed=0):
    """A prompt that the suffix source proposes much for: a short random piece over and over."""
    piece = ids(7, seed)
    return (piece * (length // 7 + 1))[:length]


def foresight(lm, prompts, num_tokens=60, wrong=5, **options):
    """A draft source that knows what plain decoding writes after each prompt, but for some tokens."""
    outs = lm.generate(prompts, max_new_tokens=num_tokens, draft=None, **options)
    texts = [prompt + out.token_ids for prompt, out in zip(prompts, outs, strict=True)]
    return Foresight(texts, wrong)


SAMPLING = dict(temperature=0.9, top_k=40, top_p=0.95)


class TestOneSeedOneText:
    """Coupled text does not depend on the draft, on its length, or on the batch."""

    @pytest.mark.parametrize("options", [{}, SAMPLING, dict(temperature=1.3, min_p=0.02)])
    def test_with_and_without_a_draft(self, lm, options):
        for seed in range(6):
            prompt = repetitive(seed=seed)
            plain = lm.generate(prompt, max_new_tokens=40, draft=None, seed=seed, **options)
            known = Foresight([prompt + plain.token_ids])
            for draft in (hb.spec.Suffix(), known):
                for length in (hb.spec.Fixed(1), hb.spec.Fixed(7), hb.spec.MeasuredGain()):
                    drafted = lm.generate(
                        prompt, max_new_tokens=40, draft=draft, seed=seed, length=length, **options
                    )
                    assert drafted.token_ids == plain.token_ids
            assert drafted.stats.accepted > 0

    def test_penalties_follow_the_draft(self, lm):
        warp = hb.Warp(temperature=0.8, repetition_penalty=1.3, frequency_penalty=0.4, presence_penalty=0.2)
        prompt = repetitive()
        plain = lm.generate(prompt, max_new_tokens=40, draft=None, warp=warp)
        known = Foresight([prompt + plain.token_ids])
        drafted = lm.generate(prompt, max_new_tokens=40, warp=warp, draft=known, length=hb.spec.Fixed(5))
        assert drafted.token_ids == plain.token_ids
        assert drafted.stats.accepted > 20

    def test_alone_and_in_a_batch(self, lm):
        prompts = [repetitive(20 + 9 * i, seed=i) for i in range(8)]
        known = foresight(lm, prompts, 30, seed=3, **SAMPLING)
        together = lm.generate(
            prompts, max_new_tokens=30, draft=known, seed=3, length=hb.spec.Fixed(4), **SAMPLING
        )
        assert sum(out.stats.accepted for out in together) > 100
        for prompt, out in zip(prompts, together, strict=True):
            alone = lm.generate(prompt, max_new_tokens=30, seed=3, draft=None, **SAMPLING)
            assert out.token_ids == alone.token_ids

    def test_equal_prompts_of_one_call_differ(self, lm):
        prompt = ids(12)
        outs = lm.generate([prompt] * 4, max_new_tokens=20, temperature=1.5, seed=1)
        assert len({tuple(out.token_ids) for out in outs}) == 4
        again = lm.generate([prompt] * 4, max_new_tokens=20, temperature=1.5, seed=1)
        assert [out.token_ids for out in again] == [out.token_ids for out in outs]

    def test_another_seed_is_another_text(self, lm):
        texts = {
            tuple(lm.generate(ids(12), max_new_tokens=20, temperature=1.5, seed=seed).token_ids)
            for seed in range(5)
        }
        assert len(texts) == 5


def test_drafts_are_accepted_and_counted(lm):
    prompt = ids(50)
    draft = foresight(lm, [prompt])
    out = lm.generate(prompt, max_new_tokens=60, draft=draft, length=hb.spec.Fixed(6))
    stats = out.stats
    assert stats.emitted == 60 == len(out.token_ids)
    assert 0 < stats.accepted <= stats.drafted
    assert stats.rows == stats.drafted + stats.forward_passes
    assert stats.emitted == 1 + stats.forward_passes + stats.accepted
    assert stats.forward_passes < 30
    assert stats.peak_kv_bytes >= lm.tree.num_bytes > 0
    assert set(stats.seconds) == {"prefill", "draft", "forward", "verify", "commit"}


def test_a_second_prompt_recomputes_nothing_of_a_shared_prefix(lm):
    system = ids(50, 9)
    lm.generate(system + ids(5, 1), max_new_tokens=4)
    out = lm.generate(system + ids(6, 2), max_new_tokens=4)
    assert out.stats.reused_tokens == 50
    lm.clear_cache()
    assert lm.generate(system + ids(6, 2), max_new_tokens=4).token_ids == out.token_ids


def test_prompts_of_one_batch_compute_a_shared_prefix_once(lm):
    lm.clear_cache()
    prompts = [ids(50, seed=7) + ids(10, seed=8 + i) for i in range(4)] + [ids(60, seed=20)]
    batch = lm.generate(prompts, max_new_tokens=8)
    assert [out.stats.reused_tokens for out in batch] == [0, 50, 50, 50, 0]
    lm.clear_cache()
    assert [out.token_ids for out in batch] == [
        lm.generate(prompt, max_new_tokens=8).token_ids for prompt in prompts
    ]


def test_nothing_is_held_after_a_call_but_the_cache(lm):
    lm.generate([ids(9, i) for i in range(5)], max_new_tokens=9)
    lm.tree.debug_check()
    lm.clear_cache()
    assert lm.tree.num_bytes == 0


@pytest.mark.parametrize("length", [0, 1])
def test_few_tokens(lm, length):
    out = lm.generate(ids(5), max_new_tokens=length)
    assert len(out.token_ids) == length
    assert out.finish_reason == "length"


def test_end_of_sequence_ends_inside_an_accepted_draft(lm):
    prompt = ids(50)
    draft = foresight(lm, [prompt], wrong=1000)
    full = draft.texts[0][50:]
    for index in (0, 3, 11):
        token = full[index]
        out = lm.generate(prompt, max_new_tokens=40, eos_token_id=token, draft=draft, length=hb.spec.Fixed(8))
        assert out.token_ids == full[: full.index(token) + 1]
        assert out.finish_reason == "eos"


def test_the_context_is_a_limit(lm):
    prompt = ids(lm.max_positions - 3)
    out = lm.generate(prompt, max_new_tokens=50)
    assert out.finish_reason == "context"
    assert len(out.token_ids) == 4


def test_tensors_and_tuples_are_token_ids(lm):
    prompt = ids(9)
    text = lm.generate(prompt, max_new_tokens=5).token_ids
    assert lm.generate(torch.tensor(prompt), max_new_tokens=5).token_ids == text
    assert lm.generate(tuple(prompt), max_new_tokens=5).token_ids == text
    many = lm.generate(torch.tensor([prompt, prompt]), max_new_tokens=5)
    assert [out.token_ids for out in many] == [text, text]


def test_processors_see_each_path(lm):
    """A processor that forbids the last token of its input: no token may repeat."""

    def no_repeat(input_ids, scores):
        scores = scores.clone()
        scores[0, input_ids[0, -1]] = -float("inf")
        return scores

    prompt = repetitive(80)
    plain = lm.generate(prompt, max_new_tokens=30, draft=None, logits_processor=no_repeat)
    known = Foresight([prompt + plain.token_ids])
    drafted = lm.generate(
        prompt, max_new_tokens=30, draft=known, logits_processor=no_repeat, length=hb.spec.Fixed(5)
    )
    assert plain.token_ids == drafted.token_ids
    assert all(a != b for a, b in zip(plain.token_ids, plain.token_ids[1:], strict=False))


class TestStream:
    def test_tokens_come_in_order_with_their_source(self, lm):
        calls = []
        prompt = ids(50)
        out = lm.generate(
            prompt,
            max_new_tokens=30,
            draft=foresight(lm, [prompt]),
            length=hb.spec.Fixed(4),
            stream=lambda text, tokens, source: calls.append((tokens, source)),
        )
        assert [token for tokens, _ in calls for token in tokens] == out.token_ids
        assert sum(len(tokens) for tokens, source in calls if source == "draft") == out.stats.accepted > 0

    def test_a_list_of_prompts_is_told_apart(self, lm):
        seen = {0: [], 1: []}

        def stream(text, tokens, source, index):
            seen[index].extend(tokens)

        outs = lm.generate([ids(4), ids(9)], max_new_tokens=6, stream=stream)
        assert [seen[0], seen[1]] == [out.token_ids for out in outs]


class Boom(Exception):
    pass


class TestFailures:
    """Whatever fails, the tree stays usable and nothing leaks."""

    def check(self, lm, expected):
        lm.tree.debug_check()
        assert lm.generate(repetitive(), max_new_tokens=20).token_ids == expected
        lm.clear_cache()
        assert lm.tree.num_bytes == 0

    @pytest.fixture
    def expected(self, lm):
        out = lm.generate(repetitive(), max_new_tokens=20).token_ids
        lm.clear_cache()
        return out

    @pytest.mark.parametrize("when", [1, 2, 4])
    def test_in_the_models_forward(self, lm, expected, when, monkeypatch):
        calls = [0]

        def fail(*_):
            calls[0] += 1
            if calls[0] == when:
                raise Boom

        handle = lm.model.model.layers[1].register_forward_pre_hook(fail)
        with pytest.raises(Boom):
            lm.generate(repetitive(), max_new_tokens=20, length=hb.spec.Fixed(3))
        handle.remove()
        self.check(lm, expected)

    def test_in_stream(self, lm, expected):
        def stream(*_):
            raise Boom

        with pytest.raises(Boom):
            lm.generate(repetitive(), max_new_tokens=20, stream=stream)
        self.check(lm, expected)

    def test_in_a_stopping_criterion(self, lm, expected):
        def criterion(_prompt, output):
            if len(output) == 5:
                raise Boom
            return False

        with pytest.raises(Boom):
            lm.generate(repetitive(), max_new_tokens=20, stopping_criterion=criterion)
        self.check(lm, expected)

    @pytest.mark.parametrize("when", [0, 7])
    def test_ctrl_c_ends_with_what_there_is(self, lm, expected, when):
        seen = []

        def fail(*_):
            if len(seen) >= when:
                raise KeyboardInterrupt

        handle = lm.model.model.layers[1].register_forward_pre_hook(fail)
        out = lm.generate(
            repetitive(), max_new_tokens=20, draft=None, stream=lambda _, tokens, __: seen.extend(tokens)
        )
        handle.remove()
        assert out.finish_reason == "interrupted"
        assert out.token_ids == expected[:when] == seen
        self.check(lm, expected)

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_logits_that_are_no_distribution(self, lm, expected, value):
        def spoil(_module, _inputs, output):
            output[..., 3] = value
            return output

        handle = lm.model.lm_head.register_forward_hook(spoil)
        with pytest.raises(LogitsError, match="sequence 0"):
            lm.generate(repetitive(), max_new_tokens=20)
        handle.remove()
        self.check(lm, expected)


class TestBadInput:
    @pytest.mark.parametrize("prompt", [[], torch.tensor([], dtype=torch.int64), [[]], [[1, 2], []]])
    def test_empty_prompt(self, lm, prompt):
        with pytest.raises(ArgumentError, match="prompt is empty"):
            lm.generate(prompt)

    @pytest.mark.parametrize("token", [-1, 256])
    def test_token_out_of_range(self, lm, token):
        with pytest.raises(ArgumentError, match=rf"token id {token}, expected 0 to 255"):
            lm.generate([1, token])

    def test_prompt_longer_than_the_context(self, lm):
        with pytest.raises(ArgumentError, match="513 tokens, expected at most the model's 512"):
            lm.generate([1] * 513)

    def test_text_without_a_tokenizer(self, lm):
        with pytest.raises(ArgumentError, match="no tokenizer"):
            lm.generate("text")
        with pytest.raises(ArgumentError, match="need a tokenizer"):
            lm.generate([1], stop="x")

    def test_something_else(self, lm):
        with pytest.raises(ArgumentError, match="prompt is a float"):
            lm.generate(1.5)

    @pytest.mark.parametrize(
        "options",
        [dict(temperature=-1.0), dict(top_p=0.0), dict(top_k=0), dict(min_p=2.0), dict(max_new_tokens=-1)],
    )
    def test_options_out_of_range(self, lm, options):
        with pytest.raises(ArgumentError, match=next(iter(options))):
            lm.generate([1], **options)

    def test_an_unknown_rule(self, lm):
        with pytest.raises(ArgumentError, match="rule"):
            lm.generate(repetitive(), verify="nonsense")

    def test_a_byte_budget_too_small(self, model):
        page = 2 * 2 * 2 * 16 * 32 * 4
        lm = hb.LM(model, max_kv_bytes=4 * page)
        with pytest.raises(OutOfPages):
            lm.generate(ids(100), max_new_tokens=4)
        lm.tree.debug_check()
        assert len(lm.generate(ids(20), max_new_tokens=4).token_ids) == 4

    def test_two_steps_at_once(self, lm):
        branch = lm.tree.branch()
        with lm.tree.step([(branch, [1], None)]), pytest.raises(StateError, match="step"):
            lm.generate([1, 2])
        assert lm.generate([1, 2], max_new_tokens=2).token_ids


class TestScore:
    def test_log_likelihoods_are_those_of_the_model(self, lm):
        prompt = ids(40)
        continuations = [ids(n, n) for n in (1, 2, 9, 30)]
        scores = lm.score(prompt, continuations)
        for continuation, score in zip(continuations, scores, strict=True):
            tokens = torch.tensor([prompt + continuation])
            with torch.inference_mode():
                logprobs = torch.log_softmax(lm.model(tokens).logits[0].double(), dim=-1)
            rows = torch.arange(len(prompt) - 1, len(prompt) + len(continuation) - 1)
            expected = logprobs[rows, torch.tensor(continuation)]
            torch.testing.assert_close(
                torch.tensor(score.token_logprobs, dtype=torch.float64), expected, atol=1e-3, rtol=1e-4
            )
            assert score.total == pytest.approx(sum(score.token_logprobs))
        lm.tree.debug_check()

    def test_in_several_steps(self, lm):
        prompt = ids(40)
        continuations = [ids(n, n) for n in (8, 9, 10, 1)]
        whole = lm.score(prompt, continuations)
        lm.prefill_rows = 12
        lm.clear_cache()
        split = lm.score(prompt, continuations)
        for a, b in zip(whole, split, strict=True):
            assert a.total == pytest.approx(b.total, abs=1e-3)

    def test_the_prompt_is_computed_once(self, lm):
        prompt = ids(40)
        lm.score(prompt, [ids(3)])
        assert lm.generate(prompt, max_new_tokens=1).stats.reused_tokens == 39

    def test_bad_input(self, lm):
        assert lm.score([1], []) == []
        with pytest.raises(ArgumentError, match="continuation is empty"):
            lm.score([1], [[]])
        with pytest.raises(ArgumentError, match="takes one prompt"):
            lm.score([[1], [2]], [[1]])
