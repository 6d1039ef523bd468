"""The chain rule under three signatures: the law of the text is the target's, whatever the draft.

Each test draws many drafts from a small q, verifies them, and holds the first tokens of the output to the
target's law by chi-square. The counts of accepted tokens are held to their expectation.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from hornbeam.errors import ArgumentError, ShapeError
from hornbeam.integrations import flashinfer, transformers, vllm
from tests.integrations.laws import laws, outlying

ROWS = 20_000
LENGTH, VOCAB = 2, 4


def drawn(q: torch.Tensor, rows: int) -> torch.Tensor:
    return torch.stack([torch.multinomial(row, rows, replacement=True) for row in q], dim=1)


def pairs(p: torch.Tensor) -> dict[tuple[int, ...], float]:
    """The law of the first two tokens, where the target does not depend on the text."""
    return {(a, b): float(p[0, a] * p[1, b]) for a in range(VOCAB) for b in range(VOCAB)}


def completed(output: torch.Tensor, p: torch.Tensor) -> list[tuple[int, ...]]:
    """Two tokens a row: a text that ended after one is continued by the target itself."""
    second = torch.multinomial(p[1], len(output), replacement=True)
    return [(a, b if b >= 0 else c) for (a, b, *_), c in zip(output.tolist(), second.tolist(), strict=True)]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(11)


def target_and_draft():
    # Token 0 has no target mass and draft mass; token 1 the other way round.
    p, q = laws(LENGTH + 1, VOCAB, seed=1), laws(LENGTH, VOCAB, seed=2, zeros=False)
    q[:, 1] = 0
    return p, q / q.sum(-1, keepdim=True)


def metadata(batch: int, *, temperature=1.0, generators=None):
    temperatures = torch.full((batch,), temperature) if isinstance(temperature, float) else temperature
    return SimpleNamespace(
        all_greedy=bool((temperatures <= 0).all()),
        all_random=bool((temperatures > 0).all()),
        temperature=temperatures,
        generators=generators or {},
    )


def by_vllm(tokens, p, q, *, as_logits=True, **options):
    rows, length = tokens.shape
    bonus = torch.multinomial(p[length], rows, replacement=True)[:, None]
    target = p[:length].repeat(rows, 1)
    named = {"target_logits": target.log()} if as_logits else {"target_probs": target}
    return vllm.rejection_sample(
        tokens.flatten(),
        [length] * rows,
        length,
        torch.arange(length, rows * length + 1, length),
        None if q is None else q.repeat(rows, 1),
        bonus_token_ids=bonus,
        sampling_metadata=metadata(rows, **options),
        **named,
    )


def by_flashinfer(tokens, p, q, **options):
    rows = len(tokens)
    return flashinfer.chain_speculative_sampling(
        q.expand(rows, -1, -1), tokens.int(), p.expand(rows, -1, -1), **options
    )


def test_flashinfer_keeps_the_law_and_counts():
    p, q = target_and_draft()
    tokens = drawn(q, ROWS)
    before = torch.full((ROWS,), 7, dtype=torch.int32)
    output, accepted, emitted = by_flashinfer(tokens, p, q, maybe_output_accepted_token_num=before)
    assert output.dtype == torch.int32
    assert output.shape == (ROWS, LENGTH + 1)
    assert outlying(completed(output, p), pairs(p)) < 5
    assert accepted is before, "the caller's counter is added to, not replaced"
    passing = torch.minimum(p[:LENGTH], q).sum(-1)
    assert accepted.float().mean() - 7 == pytest.approx(float(passing.sum()), abs=0.02)
    assert emitted.float().mean() == pytest.approx(float(passing[0] + passing.prod()), abs=0.02)
    assert torch.equal((output >= 0).sum(1), emitted + 1)
    assert torch.equal(output[:, 0] == -1, torch.zeros(ROWS, dtype=torch.bool))


def test_flashinfer_seeds_give_one_stream_each():
    p, q = target_and_draft()
    tokens = drawn(q, 6)
    seeds = torch.tensor([5, 6, 7, 8, 5, 10])
    whole = by_flashinfer(tokens, p, q, seed=seeds, offset=3)[0]
    alone = torch.cat(
        [by_flashinfer(tokens[i : i + 1], p, q, seed=int(seeds[i]), offset=3)[0] for i in range(6)]
    )
    assert torch.equal(whole, alone), "a row's stream depends on its seed, not on its place"
    assert torch.equal(
        by_flashinfer(tokens, p, q, seed=1, offset=2)[0], by_flashinfer(tokens, p, q, seed=1, offset=2)[0]
    )
    many = drawn(q, 200)
    assert not torch.equal(
        by_flashinfer(many, p, q, seed=1, offset=2)[0], by_flashinfer(many, p, q, seed=1, offset=3)[0]
    )


def test_flashinfer_draws_from_the_target_where_the_residual_is_empty():
    # q covers p everywhere, yet the drafted token has no mass in either: nothing is left to draw from.
    p = torch.tensor([[[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]])
    output = flashinfer.chain_speculative_sampling(p[:, :1], torch.tensor([[2]]), p)[0]
    assert output[0, 0] in (0, 1)
    assert output[0, 1] == -1


@pytest.mark.parametrize("as_logits", [True, False])
@pytest.mark.parametrize("chosen", [True, False], ids=["chosen draft", "drawn draft"])
def test_vllm_keeps_the_law(as_logits, chosen):
    p, q = target_and_draft()
    rows = 4000
    tokens = torch.tensor([2, 3]).repeat(rows, 1) if chosen else drawn(q, rows)
    output = by_vllm(tokens, p, None if chosen else q, as_logits=as_logits)
    assert output.dtype == torch.int32
    assert outlying(completed(output, p), pairs(p)) < 5
    share = float((output[:, 0] == tokens[:, 0]).float().mean())
    assert share == pytest.approx(float(p[0, 2] if chosen else torch.minimum(p[0], q[0]).sum()), abs=0.04)


def test_vllm_ragged_greedy_and_seeded_requests():
    vocab = 5
    logits = laws(6, vocab, seed=3).log()
    best = logits.argmax(-1)
    wrong = (best + 1) % vocab
    tokens = torch.stack([best[0], best[1], best[2], wrong[3], best[4], best[5]])
    counts, bonus = [2, 0, 3, 1], torch.tensor([[1], [2], [3], [4]])
    generator = torch.Generator()
    arguments = (tokens, counts, 3, torch.tensor([2, 2, 5, 6]), None, logits, bonus)

    def run():
        some = torch.tensor([0.0, 0.0, -1.0, 0.7])
        return vllm.rejection_sample(
            *arguments, metadata(4, temperature=some, generators={3: generator.manual_seed(9)})
        )

    first = run()
    assert first[0].tolist() == [best[0], best[1], 1, -1]
    assert first[1].tolist() == [2, -1, -1, -1]
    assert first[2].tolist() == [best[2], best[3], -1, -1]
    torch.manual_seed(99)
    assert torch.equal(first, run()), "a seeded request does not read torch's global generator"


@pytest.mark.parametrize("done", [False, True])
def test_transformers_keeps_the_law(done):
    p, q = target_and_draft()
    texts, matches = [], []
    prompt = torch.tensor([[3, 3]])
    for tokens in drawn(q, 6000):
        valid, n = transformers.speculative_sampling(
            torch.cat([prompt, tokens[None]], 1), q.log()[None], LENGTH, p.log()[None], is_done_candidate=done
        )
        assert valid.shape[1] == int(n) + 1
        matches.append(int(n))
        texts.append([*valid[0].tolist(), -1, -1][:3])
    assert outlying(completed(torch.tensor(texts), p), pairs(p)) < 5
    passing = torch.minimum(p[:LENGTH], q).sum(-1)
    expected = float(passing[0] + passing.prod() * (0 if done else 1))
    assert sum(matches) / len(matches) == pytest.approx(expected, abs=0.04)


def test_transformers_takes_the_old_flag_and_the_new_weight_in_one_place():
    p = torch.tensor([[[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]]).log()
    ids = torch.tensor([[0, 1]])
    valid, n = transformers.speculative_sampling(ids, p[:, :1], 1, p, True)
    assert (valid.tolist(), int(n)) == ([[1]], 0)
    valid, n = transformers.speculative_sampling(ids, p[:, :1], 1, p, False)
    assert (valid.tolist(), int(n)) == ([[1, 2]], 1)
    # Weight 0.25 takes a quarter of p and three quarters of q, which is sure of token 1.
    other = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]]).log()
    kept = [int(transformers.speculative_sampling(ids, p[:, :1], 1, other, 0.25)[1]) for _ in range(400)]
    assert sum(kept) / 400 == pytest.approx(0.75, abs=0.1)


def test_transformers_agrees_with_the_installed_function_where_nothing_is_drawn():
    from transformers.generation.utils import _speculative_sampling

    vocab = 7
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        # One token a row holds all the mass, so both sides have no choice.
        sure = torch.randint(vocab, (5,), generator=generator)
        logits = torch.full((1, 5, vocab), -60.0)
        logits[0, torch.arange(5), sure] = 60.0
        tokens = torch.where(torch.rand(4, generator=generator) < 0.7, sure[:4], (sure[:4] + 1) % vocab)
        draft = torch.full((1, 4, vocab), -60.0)
        draft[0, torch.arange(4), tokens] = 60.0
        ids = torch.cat([torch.zeros(3, dtype=torch.long), tokens])[None]
        ours = transformers.speculative_sampling(ids, draft, 4, logits)
        theirs = _speculative_sampling(ids, draft, 4, logits)
        assert torch.equal(ours[0], theirs[0])
        assert int(ours[1]) == int(theirs[1])


def test_bad_input_is_refused_with_what_was_expected():
    p, q = target_and_draft()
    tokens = drawn(q, 3)
    with pytest.raises(ShapeError, match=r"target_probs has shape \[3, 2, 4\], expected \[3, 3, 4\]"):
        by_flashinfer(tokens, p[:LENGTH], q)
    with pytest.raises(ArgumentError, match="token id 9, expected 0 to 3"):
        by_flashinfer(torch.full((3, 2), 9), p, q)
    with pytest.raises(ArgumentError, match="seed and offset"):
        by_flashinfer(tokens, p, q, seed=1)
    with pytest.raises(ShapeError, match="seed has 2 items, expected 1 or 3"):
        by_flashinfer(tokens, p, q, seed=torch.tensor([1, 2]), offset=0)
    with pytest.raises(ArgumentError, match="row 0 of the target"):
        by_flashinfer(tokens, p * 0, q)
    with pytest.raises(ArgumentError, match="row 0 of the target"):
        by_flashinfer(tokens, p * float("nan"), q)
    arguments = (tokens.flatten(), [2] * 3, 2, torch.tensor([2, 4, 6]), None)
    rest = (torch.zeros(3, 1, dtype=torch.long), metadata(3))
    logits = p[:2].repeat(3, 1).log()
    with pytest.raises(ShapeError, match=r"cu_num_draft_tokens is \[2, 4, 5\], expected \[2, 4, 6\]"):
        vllm.rejection_sample(*arguments[:3], torch.tensor([2, 4, 5]), None, logits, *rest)
    with pytest.raises(ArgumentError, match="synthetic_mode"):
        vllm.rejection_sample(*arguments, logits, *rest, True)
    with pytest.raises(ArgumentError, match="one of target_logits and target_probs"):
        vllm.rejection_sample(*arguments, logits, *rest, target_probs=logits)
    with pytest.raises(ShapeError, match=r"expected 0 to 1 each"):
        vllm.rejection_sample(*arguments[:2], 1, arguments[3], None, logits, *rest)
    with pytest.raises(ShapeError, match="candidate_length is 0"):
        transformers.speculative_sampling(tokens[:1], q.log()[None], 0, p.log()[None])
    with pytest.raises(ArgumentError, match=r"assistant_ensemble_weight is 1.5"):
        transformers.speculative_sampling(tokens[:1], q.log()[None], 2, p.log()[None], 1.5)
