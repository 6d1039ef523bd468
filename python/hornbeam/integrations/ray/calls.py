"""Calls over many machines: what is checked before, and what is made of the answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hornbeam.engine.processors import EachPrompt, check_shared, row_processor
from hornbeam.errors import ArgumentError, MissingExtra
from hornbeam.integers import whole_number
from hornbeam.integrations.ray.coordinator import Progress
from hornbeam.integrations.ray.given import Given, drawn, lengths, numbered
from hornbeam.integrations.ray.pool import Pool
from hornbeam.integrations.ray.searching import Searching
from hornbeam.integrations.ray.shares import Terms
from hornbeam.integrations.ray.shipping import shipment
from hornbeam.integrations.ray.work import Generating, Job, Scoring
from hornbeam.results import Generation, Likelihood
from hornbeam.search import Budget, Policy, SearchResult, TokenPolicy

__all__ = ["generate_many", "score_many", "search_many"]

Expected = Callable[[Any], float]
Watch = Callable[[Progress], Any]


def generate_many(
    model: Any,
    prompts: Any,
    *,
    budget: Budget | None = None,
    seed: int | None = 0,
    n: int | None = None,
    load: Mapping[str, Any] | None = None,
    workers: int | Pool | None = None,
    in_flight: int = 64,
    expected: Expected | None = None,
    watch: Watch | None = None,
    column: str = "prompt",
    **options: Any,
) -> Any:
    """Continues prompts on all machines of a Ray cluster.

    The answers are those of :meth:`hornbeam.LM.generate`, on any number of workers and whichever of them die
    on the way, up to the model's own floating-point noise; with a ``budget`` each ends at its share at the
    latest.

    Args:
        model: the path or name of a model, which each worker loads; a :class:`hornbeam.LM`, whose weights are
            put into Ray's object store; or a function without arguments that gives one on the worker.
        prompts: a list of prompts, each as in :meth:`hornbeam.LM.generate`; or a Ray data set with a column
            of them.
        budget: tokens that all answers may have together, without a limit by default. Each prompt gets an
            equal share of what is left, and what a short answer leaves goes to longer ones, wherever they are
            written. A text that is cut there has ``finish_reason == "length"``.
        seed: as in :meth:`hornbeam.LM.generate`: equal prompts draw numbers of their own.
        n: so many samples of each prompt.
        load: keywords of :meth:`hornbeam.LM.from_pretrained`, where ``model`` is a path or name.
        workers: actors with one engine each, or a :class:`Pool` that says what each of them takes; by default
            as many with one thread as the cluster has room for.
        in_flight: prompts that a worker decodes at a time.
        expected: of a prompt, how long its work is expected to take, in any unit: the longest are begun
            first. The length of the prompt by default.
        watch: is told where the call stands: a :class:`Progress`.
        column: of the data set, with the prompts.
        options: of :meth:`hornbeam.LM.generate`; not ``stream`` and ``trace``, which are of one process.

    Returns:
        For a list the answers in its order, an :class:`Answers` of :class:`hornbeam.results.Generation`, or
        with ``n`` of lists of them. For a data set a data set with the columns ``text``, ``token_ids`` and
        ``finish_reason`` beside its own, with ``n`` lists of them.

    Raises:
        ArgumentError: an argument is not of its kind; the cluster has no room for so many workers; or what
            :meth:`hornbeam.LM.generate` raises of a prompt, which the message names.
        StateError: as many workers as :attr:`Pool.tries` have died with the same prompt under way.
    """
    for name in ("stream", "trace", "attention_mask"):
        if options.pop(name, None) is not None:
            raise ArgumentError(
                f"{name} is given, expected it to be left out: it is of a call in one process"
            )
    samples = 1 if n is None else whole_number(n, "n", 1)
    options["seed"] = drawn(seed)
    terms = Terms(Budget() if budget is None else budget, ("tokens",))
    in_flight = whole_number(in_flight, "in_flight", 1)
    processor = row_processor(options.get("logits_processor"))
    pool = workers if isinstance(workers, Pool) else Pool(workers)
    cluster = _cluster()
    with cluster.connected():
        given = Given(prompts, {"prompt": column})
        jobs = numbered([prompt for prompt in given.columns["prompt"] for _ in range(samples)])
        if len(jobs) > 1 and not isinstance(processor, EachPrompt):
            check_shared(
                processor,
                f"serve {len(jobs)} sequences",
                "hb.EachPrompt(factory), which makes one for each, or ",
            )
        shipped = shipment(model, load or {})
        work = Generating(options, in_flight)
        found, progress = cluster.run(work, shipped, jobs, lengths(jobs, expected), terms, pool, watch)
        if n is None:
            return given.returned(found, progress, _told_generation)
        found = [found[begin : begin + n] for begin in range(0, len(found), n)]
        return given.returned(found, progress, _told_samples)


def score_many(
    model: Any,
    prompts: Any,
    continuations: Any = None,
    *,
    load: Mapping[str, Any] | None = None,
    workers: int | Pool | None = None,
    in_flight: int = 16,
    expected: Expected | None = None,
    watch: Watch | None = None,
    column: str = "prompt",
    continuations_column: str = "continuations",
) -> Any:
    """Log-likelihoods of continuations on all machines of a Ray cluster: those of :meth:`hornbeam.LM.score`.

    Args:
        model, load, workers, watch, column: as :func:`generate_many` has them.
        prompts: a list of prompts, or a Ray data set with a column of them.
        continuations: of each prompt a list of texts or token ids. Left out for a data set.
        in_flight: prompts that a worker scores at a time.
        expected: as :func:`generate_many` has it; the length of the prompt and its continuations by default.
        continuations_column: of the data set, with the lists of continuations.

    Returns:
        For a list of each prompt one :class:`hornbeam.results.Likelihood` a continuation, an
        :class:`Answers`. For a data set a data set with the columns ``total``, ``token_logprobs`` and
        ``is_greedy`` beside its own, one entry a continuation.

    Raises:
        ArgumentError, StateError: as :func:`generate_many`.
    """
    in_flight = whole_number(in_flight, "in_flight", 1)
    pool = workers if isinstance(workers, Pool) else Pool(workers)
    cluster = _cluster()
    with cluster.connected():
        names = {"prompt": column, "continuations": continuations_column}
        given = Given(prompts, names, continuations=continuations)
        pairs = zip(given.columns["prompt"], given.columns["continuations"], strict=True)
        jobs = [Job(prompt, continuations=own) for prompt, own in pairs]
        shipped = shipment(model, load or {})
        terms = Terms(Budget(), ())
        found, progress = cluster.run(
            Scoring(in_flight), shipped, jobs, lengths(jobs, expected), terms, pool, watch
        )
        return given.returned(found, progress, _told_likelihoods)


def search_many(
    model: Any,
    prompts: Any,
    *,
    recipe: Policy | TokenPolicy,
    budget: Budget | None = None,
    each: Budget | None = None,
    seed: int | None = 0,
    load: Mapping[str, Any] | None = None,
    workers: int | Pool | None = None,
    in_flight: int = 4,
    expected: Expected | None = None,
    watch: Watch | None = None,
    column: str = "prompt",
    **options: Any,
) -> Any:
    """Searches on all machines of a Ray cluster: one :meth:`hornbeam.LM.search` a prompt.

    With a ``budget`` over all, each search gets an equal share first. When all have ended or spent theirs,
    what is left is shared among those that were cut short, which go on; and so on, until nothing is left or
    nobody wants more. Each result is that of a search with what it has got in all.

    Args:
        model, prompts, load, workers, watch, column: as :func:`generate_many` has them.
        recipe: where to search, as in :meth:`hornbeam.LM.search`.
        budget: tokens and verifier calls of all searches together.
        each: what any one of them may spend: tokens, verifier calls and bytes of pages.
        seed: of each search, as in :meth:`hornbeam.LM.search`.
        in_flight: searches of a worker at a time.
        expected: as :func:`generate_many` has it.
        options: of :meth:`hornbeam.LM.search`: ``value``, ``finish``, ``step``, ``draft``, ``select``,
            ``keep``, ``logits_processor``, ``attend``, ``prefill``.

    Returns:
        For a list an :class:`Answers` of :class:`hornbeam.search.SearchResult`, without hidden states. For a
        data set a data set with the columns ``text``, ``token_ids`` and ``value`` of the chosen path, and
        ``stop`` and ``tokens``, beside its own.

    Raises:
        ArgumentError, StateError: as :func:`generate_many`; or what :meth:`hornbeam.LM.search` raises.
    """
    for name in ("watch", "checkpoint", "resume"):
        if options.pop(name, None) is not None:
            raise ArgumentError(
                f"{name} is given, expected it to be left out: it is of a call in one process"
            )
    terms = Terms(Budget() if budget is None else budget, ("tokens", "verifier_calls"), in_rounds=True)
    Terms(Budget() if each is None else each, ("tokens", "verifier_calls", "kv_bytes"))
    pool = workers if isinstance(workers, Pool) else Pool(workers)
    over_tokens = isinstance(recipe, TokenPolicy)
    is_held = any(options.get(name) is not None for name in ("keep", "attend", "prefill"))
    work = Searching(
        {**options, "recipe": recipe, "seed": drawn(seed)},
        Budget() if each is None else each,
        whole_number(in_flight, "in_flight", 1),
        is_durable=budget is not None and not (over_tokens or is_held),
        is_watched=not over_tokens,
    )
    cluster = _cluster()
    with cluster.connected():
        given = Given(prompts, {"prompt": column})
        jobs = [Job(prompt) for prompt in given.columns["prompt"]]
        for kind in terms.kinds:
            limit = getattr(terms.budget, kind)
            if limit is not None and limit < len(jobs):
                raise ArgumentError(
                    f"budget.{kind} is {limit}, expected at least one for each of {len(jobs)} prompts"
                )
        shipped = shipment(model, load or {})
        parcels, progress = cluster.run(work, shipped, jobs, lengths(jobs, expected), terms, pool, watch)
        return given.returned([parcel.result() for parcel in parcels], progress, _told_search)


def _cluster() -> Any:
    """What drives Ray.

    Raises:
        MissingExtra: Ray Data is not installed.
    """
    try:
        from hornbeam.integrations.ray import cluster
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("hornbeam"):
            raise
        raise MissingExtra(f"{error.name} is not installed: pip install 'hornbeam[ray]'") from error
    return cluster


def _told_generation(answer: Generation) -> dict[str, Any]:
    return {"text": answer.text, "token_ids": answer.token_ids, "finish_reason": answer.finish_reason}


def _told_samples(answers: list[Generation]) -> dict[str, Any]:
    told = [_told_generation(answer) for answer in answers]
    return {name: [one[name] for one in told] for name in told[0]}


def _told_likelihoods(answer: list[Likelihood]) -> dict[str, Any]:
    return {
        "total": [one.total for one in answer],
        "token_logprobs": [one.token_logprobs for one in answer],
        "is_greedy": [one.is_greedy for one in answer],
    }


def _told_search(answer: SearchResult) -> dict[str, Any]:
    best = answer.best
    return {
        "text": None if best is None else best.text,
        "token_ids": None if best is None else best.token_ids,
        "value": None if best is None else best.value,
        "stop": answer.stop,
        "tokens": answer.ledger.tokens,
    }
