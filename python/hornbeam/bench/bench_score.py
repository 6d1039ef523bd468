"""``LM.score`` of many questions about one state, over one forward pass of transformers a question.

The state is 2,000 tokens of source text, a question 30 tokens of other text: 64 of them, scored after the
state. The other side runs ``model(...)`` over state and question, with the logits of the question's rows
alone. Both give the same log-probabilities of every token. Nothing is kept from run to run.

All passes of the other side have as many rows, so that a run of it does those of 4 questions, others in each
alternation, and counts them 16 times; what they give is checked.

    hornbeam bench score [--quick]
"""

from __future__ import annotations

from typing import Any

import torch

from hornbeam.bench import harness
from hornbeam.bench.workload import Sides, sources

__all__ = ["run"]

STATE, QUESTION, QUESTIONS = 2_000, 30, 64
#: Questions that a run of the other side answers.
PASSES = 4
#: Greatest difference of a log-probability, in nats.
TOLERANCE = 2e-3


def texts(sides: Sides, state: int, questions: int) -> tuple[list[int], list[list[int]]]:
    """Token ids of a state and of questions, from places of their own."""
    ids = sides.raw("\n".join(sources())[: 8 * (state + 2 * questions * QUESTION)])
    rest = ids[state:]
    return ids[:state], [rest[begin : begin + QUESTION] for begin in range(0, questions * QUESTION, QUESTION)]


@torch.inference_mode()
def passes(model: Any, state: list[int], questions: list[list[int]]) -> list[list[float]]:
    """Log-probabilities of every token of each question, by a pass a question."""
    found = []
    for question in questions:
        ids = torch.tensor([[*state, *question]])
        logits = model(ids, use_cache=False, logits_to_keep=len(question) + 1).logits[0, :-1]
        values = logits.float().log_softmax(-1)
        found.append(values.gather(1, torch.tensor(question)[:, None])[:, 0].tolist())
    return found


def run(quick: bool = False) -> dict[str, Any]:
    """The ratio; ``quick`` takes a shorter state and fewer questions."""
    sides = Sides(quick)
    state, questions = texts(sides, 400 if quick else STATE, 8 if quick else QUESTIONS)

    def ours() -> list[list[float]]:
        sides.lm.clear_cache()
        return [found.token_logprobs for found in sides.lm.score(state, questions)]

    found, difference, turn = torch.tensor(ours()), 0.0, 0

    def theirs() -> None:
        nonlocal difference, turn
        first = turn * PASSES % len(questions)
        expected = torch.tensor(passes(sides.model, state, questions[first : first + PASSES]))
        difference = max(difference, (found[first : first + PASSES] - expected).abs().max().item())
        turn += 1

    ours_seconds, theirs_seconds = sides.race(ours, theirs)
    if not difference <= TOLERANCE:
        raise SystemExit(f"a log-probability is off by {difference}, expected at most {TOLERANCE}")
    times = harness.ratio(ours_seconds, [seconds * len(questions) / PASSES for seconds in theirs_seconds])
    print(f"  {times.median:.2f}x [{times.low:.2f}, {times.high:.2f}]", flush=True)
    return {
        "state_tokens": len(state),
        "questions": len(questions),
        "question_tokens": QUESTION,
        "greatest_difference": difference,
        "times_as_fast": times,
    }
