"""vLLM's published cases for its rejection sampler (0.33), told anew for ``rejection_sample``.

There a sampler processes the logits first; here each case hands over what that makes of them. Left out are
the four synthetic cases, which the adaptor refuses.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from hornbeam.errors import ArgumentError
from hornbeam.integrations.vllm import rejection_sample
from tests.integrations.laws import laws, outlying

VOCAB = 100


def metadata(batch: int, greedy: bool, generators=None):
    return SimpleNamespace(
        all_greedy=greedy,
        all_random=not greedy,
        temperature=None if greedy else torch.ones(batch),
        generators=generators or {},
    )


def verify(drafts, logits, bonus, *, greedy=False, draft_probs=None, generators=None, **more):
    """The output as lists; ``drafts`` are lists of ids, -1 for a placeholder."""
    counts = [len(draft) for draft in drafts]
    return rejection_sample(
        torch.tensor([token for draft in drafts for token in draft], dtype=torch.int32),
        counts,
        max(counts),
        torch.tensor(counts).cumsum(0),
        draft_probs,
        logits,
        torch.tensor(bonus),
        metadata(len(drafts), greedy, generators),
        **more,
    )


def peaked(choices, second: int | None = None) -> torch.Tensor:
    """Logits with the mass on one token a row, and ``second`` close behind it."""
    logits = torch.full((len(choices), VOCAB), -100.0)
    logits[torch.arange(len(choices)), torch.tensor(choices, dtype=torch.long)] = 100.0
    if second is not None:
        logits[:, second] = torch.where(logits[:, second] > 99, logits[:, second], 99.0)
    return logits


@pytest.mark.parametrize(
    ("drafts", "choices", "expected"),
    [
        ([[1, 2, 3]], [[1, 2, 3, 4]], [[1, 2, 3, 4]]),
        ([[1, 2, 3]], [[1, 5, 3, 4]], [[1, 5, -1, -1]]),
        ([[1, 2], [3]], [[1, 2, 5], [3, 4]], [[1, 2, 5], [3, 4, -1]]),
        ([[1]], [[1, 2]], [[1, 2]]),
        ([[]], [[5]], [[5]]),
        ([[1, 2, 3], [4, 5, 6]], [[1, 2, 7, 6], [4, 8, 6, 9]], [[1, 2, 7, -1], [4, 8, -1, -1]]),
        ([[1, 2]], [[1, 2, 3]], [[1, 2, 3]]),
        ([[1]], [[2, 3]], [[2, -1]]),
        ([[1, 2], [3, 4]], [[1, 5, 6], [3, 4, 7]], [[1, 5, -1], [3, 4, 7]]),
    ],
)
@pytest.mark.parametrize("shape", [(-1,), (-1, 1)], ids=["flat bonus", "column of bonus"])
def test_greedy_requests(drafts, choices, expected, shape):
    """The last choice of a request is what follows a draft that is accepted whole."""
    logits = peaked([token for row in choices for token in row[:-1]])
    bonus = torch.tensor([row[-1] for row in choices]).view(shape).tolist()
    output = verify(drafts, logits, bonus, greedy=True)
    assert output.tolist() == expected
    assert output.dtype == torch.int32


@pytest.mark.parametrize("length", [1, 3, 5])
@pytest.mark.parametrize("batch", [1, 4, 8])
@pytest.mark.parametrize("seeded", [0.0, 0.5])
def test_a_seeded_request_repeats_itself(length, batch, seeded):
    torch.manual_seed(batch)
    logits = torch.rand(batch * length, 1000)
    drafts = torch.randint(1000, (batch, length)).tolist()
    bonus = torch.randint(1000, (batch, 1)).tolist()
    fixed = [request for request in range(batch) if torch.rand(()) <= seeded]
    runs = []
    for _ in range(20):
        generators = {request: torch.Generator().manual_seed(request) for request in fixed}
        runs.append(verify(drafts, logits, bonus, generators=generators))
    assert all(torch.equal(run[fixed], runs[0][fixed]) for run in runs)


def test_the_law_is_that_of_the_target_whatever_the_draft():
    torch.manual_seed(1)
    samples, vocab = 20_000, 10
    q, logits = torch.rand(vocab).softmax(-1), torch.rand(vocab)
    drafts = torch.multinomial(q, samples * 2, replacement=True).view(samples, 2)
    output = verify(
        drafts.tolist(),
        logits.repeat(samples * 2, 1),
        [0] * samples,
        draft_probs=q.repeat(samples * 2, 1),
    )[:, :2]
    expected = {(token,): float(p) for token, p in enumerate(logits.softmax(-1))}
    assert outlying([(token,) for token in output[output >= 0].tolist()], expected) < 5


def only_allowed(allowed: torch.Tensor, logits: torch.Tensor) -> None:
    """Verifies drafts over masked logits; no token that came out is one that was masked."""
    total = len(logits)
    q = torch.rand(total, VOCAB).softmax(-1)
    drafts = torch.multinomial(q, 1).view(-1, 3)
    masked = logits.masked_fill(~allowed, -torch.inf)
    output = verify(drafts.tolist(), masked, [0] * len(drafts), draft_probs=q)[:, :3].flatten()
    rows = (output >= 0).nonzero().flatten()
    assert len(rows) >= len(drafts)
    assert bool(allowed[rows, output[rows].long()].all())


@pytest.mark.parametrize("top_k", [1, 5, 99])
def test_top_k(top_k):
    """The chosen ones are hardly more probable than the rest: without the mask others would come out."""
    torch.manual_seed(top_k)
    allowed = torch.zeros(300, VOCAB, dtype=torch.bool)
    for row in allowed:
        row[torch.randperm(VOCAB)[:top_k]] = True
    only_allowed(allowed, 0.1 * allowed)


@pytest.mark.parametrize("top_p", [0.5, 0.9, 0.99])
def test_top_p(top_p):
    torch.manual_seed(0)
    logits = torch.randn(300, VOCAB)
    ordered, ids = logits.softmax(-1).sort(-1)
    stays = ordered.cumsum(-1) > 1 - top_p
    stays[:, -1] = True
    only_allowed(torch.zeros_like(stays).scatter(1, ids, stays), logits)


def test_frequency_penalties():
    """One token after the other is drafted as often as it is no worse than the second best."""
    logits = peaked([1] * 6, second=15)
    for request, penalty in enumerate((1.5, 0.7)):
        for place in range(3):
            logits[request * 3 + place, 1] -= penalty * place
    output = verify([[1, 1, 1], [], [1, 1, 1]], logits, [1, 7, 1], greedy=True)
    assert output.tolist() == [[1, 15, -1, -1], [7, -1, -1, -1], [1, 1, 15, -1]]


def test_bad_words_of_some_requests():
    logits = peaked([1, 2, 3, 1, 15, 3, 1, 2, 3], second=15)
    logits[[1, 7], 2] = -torch.inf
    output = verify([[1, 2, 3], [1, 15, 3], [1, 2, 3]], logits, [4, 4, 4], greedy=True)
    assert output.tolist() == [[1, 15, -1, -1], [1, 15, 3, 4], [1, 15, -1, -1]]


def test_allowed_token_ids():
    """The first request and the last each ban five ids; the last wants none of them."""
    logits = peaked([1, 2, 10, 10, 5, 10, 7, 10, 12], second=15)
    for request in (0, 2):
        logits[request * 3 : request * 3 + 3, request : request + 5] = -torch.inf
    output = verify([[1, 2, 10], [10, 5, 3], [7, 10, 12]], logits, [5, 5, 5], greedy=True)
    assert output.tolist() == [[15, -1, -1, -1], [10, 5, 10, -1], [7, 10, 12, 5]]


@pytest.mark.parametrize("greedy", [False, True])
@pytest.mark.parametrize("drawn", [False, True], ids=["chosen draft", "drawn draft"])
def test_a_placeholder_is_always_rejected(greedy, drawn):
    logits = peaked([1, VOCAB - 1, 7])
    q = logits.softmax(-1) if drawn else None
    for seed in range(20):
        torch.manual_seed(seed)
        output = verify([[1, VOCAB - 1, -1]], logits, [9], greedy=greedy, draft_probs=q)
        assert output.tolist() == [[1, VOCAB - 1, 7, -1]]


def test_what_replaces_a_placeholder_has_the_law_of_the_target():
    torch.manual_seed(2)
    p, q = laws(2, 4, seed=5, zeros=False)
    trials = 6000
    for draft_probs in (None, q.repeat(trials, 1)):
        output = verify([[-1]] * trials, p.log().repeat(trials, 1), [3] * trials, draft_probs=draft_probs)
        assert bool((output[:, 1] == -1).all())
        found = [(token,) for token in output[:, 0].tolist()]
        assert outlying(found, {(token,): float(mass) for token, mass in enumerate(p)}) < 5


def test_a_token_that_the_draft_gave_no_mass_is_rejected():
    """Its replacement is drawn from what the target has beyond the draft."""
    p = torch.tensor([[0.5, 0.3, 0.2]])
    q = torch.tensor([[0.0, 0.8, 0.2]])
    trials = 200
    torch.manual_seed(0)
    output = verify([[0]] * trials, p.log().repeat(trials, 1), [2] * trials, draft_probs=q.repeat(trials, 1))
    assert output.tolist() == [[0, -1]] * trials


def test_fly_and_what_is_no_token_are_refused_by_name():
    logits, given = peaked([1, 2]), ([[1, 2]], [3])
    as_they_are = verify(given[0], logits, given[1], fly_window_size=None, fly_entropy_threshold=None)
    assert as_they_are.tolist() == [[1, 2, 3]]
    with pytest.raises(ArgumentError, match="fly_window_size is 2, expected None"):
        verify(given[0], logits, given[1], fly_window_size=2, fly_entropy_threshold=0.3)
    with pytest.raises(ArgumentError, match=r"fly_entropy_threshold is 0.3, expected None"):
        verify(given[0], logits, given[1], fly_entropy_threshold=0.3)
    for token in (-2, VOCAB):
        with pytest.raises(ArgumentError, match=f"token id {token}, expected 0 to 99"):
            verify([[1, token]], logits, [3])
