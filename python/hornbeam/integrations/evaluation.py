"""What a harness asks of a model: likelihoods of continuations, and texts that end at stop strings.

Token ids in, numbers and token ids out; nothing here needs a harness. :mod:`hornbeam.integrations.lm_eval` is
the face of it that lm-evaluation-harness knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hornbeam.errors import ArgumentError
from hornbeam.integers import whole_number
from hornbeam.lm import LM

__all__ = ["GenerationRequest", "Pair", "batches", "cut", "generated", "request_of", "scored"]

Pair = tuple[Sequence[int], Sequence[int]]
"""Token ids of a context, and of its continuation."""

#: Texts that are under way together where the caller does not say how many: enough for full passes.
TOGETHER = 128
#: Names by which harnesses call the greatest number of new tokens, the first that is given counts.
LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
#: What of a harness's options :meth:`hornbeam.LM.generate` has by the same name.
PASSED_ON = ("top_k", "top_p", "min_p", "repetition_penalty", "frequency_penalty", "presence_penalty")

Told = Callable[[int], Any]


def scored(
    lm: LM,
    pairs: Sequence[Pair],
    *,
    max_length: int | None = None,
    together: int | None = None,
    told: Told | None = None,
) -> list[tuple[float, bool]]:
    """Of every continuation its log-likelihood in nats, and whether greedy decoding would write it.

    Contexts are taken in the order of their tokens, so that what they begin with in common is computed once;
    all continuations of a context are rows of the same passes. A text longer than the model's context loses
    tokens at its beginning, as in lm-evaluation-harness.

    Args:
        lm: the model.
        pairs: token ids, neither part empty.
        max_length: tokens that the model may read; its positions by default.
        together: continuations that are under way together.
        told: called with the number of continuations that are done, after each batch.

    Raises:
        ArgumentError: an empty part, or a continuation that is longer than ``max_length``.
    """
    most = lm.max_positions if max_length is None else min(max_length, lm.max_positions)
    found: dict[tuple[int, ...], list[int]] = {}
    for place, (context, continuation) in enumerate(pairs):
        if not context or not 0 < len(continuation) <= most:
            raise ArgumentError(
                f"a context has {len(context)} tokens and its continuation {len(continuation)}, expected at "
                f"least 1, and 1 to {most}"
            )
        room = most + 1 - len(continuation)
        found.setdefault(tuple(context[-room:]), []).append(place)
    answers: list[tuple[float, bool]] = [(0.0, False)] * len(pairs)
    contexts = sorted(found)
    for batch in batches([len(found[context]) for context in contexts], together or TOGETHER):
        own = contexts[batch]
        texts = [[list(pairs[place][1]) for place in found[context]] for context in own]
        for context, likelihoods in zip(
            own, lm.score([list(context) for context in own], texts), strict=True
        ):
            for place, likelihood in zip(found[context], likelihoods, strict=True):
                answers[place] = likelihood.total, likelihood.is_greedy
        if told is not None:
            told(sum(map(len, texts)))
    return answers


def batches(sizes: Sequence[int], most: int) -> Iterator[slice]:
    """Runs of neighbours with ``most`` together, or of one that is larger alone.

    Args:
        sizes: of each.
        most: of a run.
    """
    begin = count = 0
    for place, size in enumerate(sizes):
        if place > begin and count + size > most:
            yield slice(begin, place)
            begin, count = place, 0
        count += size
    if begin < len(sizes):
        yield slice(begin, len(sizes))


@dataclass(frozen=True)
class GenerationRequest:
    """How a text goes on.

    Args:
        stop: the text ends before the first of these.
        max_new_tokens: at most so many tokens.
        options: the keywords of :meth:`hornbeam.LM.generate` beside these.
    """

    stop: tuple[str, ...]
    max_new_tokens: int
    options: dict[str, Any] = field(default_factory=dict)


def request_of(options: Mapping[str, Any], *, max_new_tokens: int) -> GenerationRequest:
    """What a harness's options of a generation say.

    ``until`` (one or several strings), the greatest length by any of its names, ``do_sample`` and
    ``temperature`` as lm-evaluation-harness reads them (greedy unless one of them says otherwise),
    ``top_k``, ``top_p``, ``min_p`` and penalties. Sampling draws its seed from torch's generator, which
    harnesses seed.

    Args:
        options: as a task gives them.
        max_new_tokens: where they do not say.

    Raises:
        ArgumentError: an option that is none of these, by its name, two lengths that differ, or sampling
            without a temperature.
    """
    given = dict(options)
    until = given.pop("until", None) or ()
    stop = (until,) if isinstance(until, str) else tuple(until)
    if not all(isinstance(one, str) for one in stop):
        raise ArgumentError(f"until is {until!r}, expected strings")
    lengths = {name: given.pop(name) for name in LENGTHS if given.get(name) is not None}
    if len(set(lengths.values())) > 1:
        raise ArgumentError(f"the greatest length is given as {lengths}, expected one of them")
    length = whole_number(next(iter(lengths.values()), max_new_tokens), "max_gen_toks", 1)
    temperature = float(given.pop("temperature", None) or 0.0)
    do_sample = given.pop("do_sample", None)
    if do_sample is None:
        do_sample = temperature > 0
    if do_sample and temperature == 0:
        raise ArgumentError("do_sample is True and temperature 0, expected a temperature to sample with")
    passed = {name: given.pop(name) for name in PASSED_ON if name in given}
    if given:
        raise ArgumentError(
            f"generation options are {', '.join(map(repr, given))}, expected until, do_sample, temperature, "
            f"{', '.join((*LENGTHS, *PASSED_ON))}"
        )
    if do_sample:
        passed |= {"temperature": temperature, "seed": None}
    else:
        passed = {name: value for name, value in passed.items() if name.endswith("penalty")}
    return GenerationRequest(tuple(one for one in stop if one), length, passed)


def generated(
    lm: LM,
    contexts: Sequence[Sequence[int]],
    request: GenerationRequest,
    *,
    max_length: int | None = None,
    together: int | None = None,
    told: Told | None = None,
    **options: Any,
) -> list[list[int]]:
    """The new token ids of each context, up to and with those of a stop string or of the end.

    Contexts that leave no room for the answer lose tokens at their beginning, as in lm-evaluation-harness.

    Args:
        lm: the model.
        contexts: token ids, none empty.
        request: what all of them ask for.
        max_length: tokens of context and answer; the model's positions by default.
        together: contexts that are under way together.
        told: called with the number of contexts that are done, after each batch.
        options: more of :meth:`hornbeam.LM.generate`, such as ``draft``.

    Raises:
        ArgumentError: no room for a context, or an argument of ``generate`` that is out of range.
    """
    most = lm.max_positions if max_length is None else min(max_length, lm.max_positions)
    room = most - request.max_new_tokens
    if room < 1:
        raise ArgumentError(
            f"max_gen_toks is {request.max_new_tokens}, expected less than the model's context of {most}"
        )
    order = sorted(range(len(contexts)), key=lambda place: tuple(contexts[place]))
    answers: list[list[int]] = [[] for _ in contexts]
    for batch in batches([1] * len(order), together or TOGETHER):
        places = order[batch]
        found = lm.generate(
            [list(contexts[place][-room:]) for place in places],
            max_new_tokens=request.max_new_tokens,
            stop=list(request.stop) or None,
            **request.options,
            **options,
        )
        for place, generation in zip(places, found, strict=True):
            answers[place] = generation.token_ids
        if told is not None:
            told(len(places))
    return answers


def cut(text: str, stop: Sequence[str]) -> str:
    """A text up to its first stop string.

    Args:
        text: what was written.
        stop: strings, none empty.
    """
    for one in stop:
        text = text.partition(one)[0]
    return text
