"""Runs a search: the children of a round are written in one ragged batch, over prefixes that are read once.

A node is a request that has ended and still holds its branch; its children are requests whose prompt is all
that it holds. They share its pages, and read one row of their own before they write.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from types import NoneType
from typing import TYPE_CHECKING, Any

from hornbeam.engine.durable import Begun, begin, go_on
from hornbeam.engine.request import Call, Request
from hornbeam.errors import ArgumentError, BudgetExhausted
from hornbeam.integers import whole_number
from hornbeam.interrupts import end_frames, modes_of_torch, restore_modes
from hornbeam.prompt import prompts_of
from hornbeam.search.budget import Budget, Ledger
from hornbeam.search.checkpoint import Round
from hornbeam.search.path import Path, SearchResult, SearchTree, Stop
from hornbeam.search.policy.base import Expansion, Policy
from hornbeam.search.select import answers
from hornbeam.search.select import best as greatest
from hornbeam.search.step_end import StepEnd
from hornbeam.search.value import Likelihood, values_of
from hornbeam.text import decode

if TYPE_CHECKING:
    from hornbeam.engine.engine import Engine
    from hornbeam.engine.options import Options

__all__ = ["Searching", "search"]

Finish = Callable[[Path], Any]


@dataclass
class Searching:
    """One search under way.

    Attributes:
        engine: takes the steps, with whatever else is under way on it.
        prompt: token ids.
        policy: where to search.
        value: of a list of paths, one number each.
        finish: whether a path is finished: true, or its answer as text.
        step: where steps end.
        budget: what may be spent.
        seed: of everything random.
        draft: of every path.
        select: chooses among the finished paths.
    """

    engine: Engine
    prompt: list[int]
    policy: Policy
    value: Callable[[Sequence[Path]], Any]
    finish: Finish | None
    step: StepEnd
    budget: Budget
    seed: int
    draft: Any
    select: Callable[[Sequence[Path]], Path | None]
    tree: SearchTree = field(default_factory=SearchTree)
    last: Round | None = None  # the last that is whole
    _held: dict[int, Request] = field(default_factory=dict)  # by node: the branches of what is live
    _live: list[int] = field(default_factory=list)  # nodes whose pages count as held, read or not
    _observers: list[Callable[[], None]] = field(default_factory=list)  # called after a round and at the end

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.budget)
        self._search = self.policy.open(self.seed)
        self._call = Call()
        self._written: list[Request] = []  # of the round under way
        root = Path(0, None, "", [], [], 0, self.prompt)
        self.tree.paths[0] = root
        self._options: Options = self.engine.options_of(
            draft=self.draft,
            temperature=self.policy.temperature,
            top_p=self.policy.top_p,
            stopping_criterion=None if self.step.delimiter is None else self._is_step,
            logprobs=0,
            seed=self.seed,
        )

    def run(self) -> SearchResult:
        """Searches to the end, or as far as the budget goes.

        Raises:
            BudgetExhausted: the budget ran out before any path was valued.
            BaseException: what the model, a value or ``finish`` raised, or Ctrl-C, before any
                path was valued.
        """
        modes = modes_of_torch()
        stop: Stop = "over"
        error: BaseException | None = None
        self._clock = time.perf_counter()
        try:
            while not self._search.is_over:
                cut = self._round()
                if cut is not None:
                    stop = cut
                    break
                self._notify()
        except KeyboardInterrupt as interrupt:
            end_frames(interrupt)
            self.engine.interrupt(self._written)
            stop, error = "interrupted", interrupt
        except Exception as raised:
            stop, error = "error", raised
        finally:
            self.engine.close_all([*self._written, *self._held.values()])
            self._held.clear()
            self.ledger.release_bytes(self.ledger.kv_bytes_held)
            self._note_time()
            restore_modes(modes)
        try:
            self._notify()
        except Exception as raised:
            stop, error = ("error", raised) if error is None else (stop, error)
        valued = [path for path in self.tree.paths.values() if path.node]
        if not valued:
            if error is not None:
                raise error
            raise BudgetExhausted(
                f"the budget of {stop} was spent before any path was valued: {self.ledger!r}"
            )
        finished = self.tree.finished
        best = greatest(finished or valued)
        try:
            if finished and not isinstance(best := self.select(finished), (Path, NoneType)):
                raise ArgumentError(f"select gave {best!r}, expected a path or None")
        except Exception as raised:
            best = greatest(finished)
            stop, error = ("error", raised) if error is None else (stop, error)
        return SearchResult(best, answers(finished), self.ledger, self.tree, stop, error)

    def _round(self) -> Stop | None:
        """One round; why the search ends with it, if it does."""
        if (cut := self._is_spent()) is not None:
            return cut
        self._let_go()
        most, cut = self._affordable()
        if not most:
            return cut
        asked = self._search.ask(most)
        total = sum(expansion.children for expansion in asked)
        if not total:
            if not self._search.is_over:
                raise ArgumentError("the policy asked for nothing, expected an expansion or the end of it")
            return None
        if gone := {expansion.leaf for expansion in asked} - {0, *self._live}:
            raise ArgumentError(f"the policy goes on from node {min(gone)}, expected one that is live")
        each = self._each(total)
        kv_bytes = total * self._bytes_of_child(each)
        reserved = {"tokens": total * each, "verifier_calls": total, "kv_bytes": kv_bytes}
        if total > most or not self.ledger.reserve(**reserved):
            raise ArgumentError(f"the policy asked for {total} children, expected at most {most}")
        used = {"tokens": 0, "verifier_calls": 0, "kv_bytes": 0}
        try:
            if (cut := self._write(asked, each)) is not None:
                return cut
            paths = [self._path(request) for request in self._written]
            used["verifier_calls"] = total
            values = values_of(self.value, paths)
        finally:
            used["tokens"] = sum(len(request.output) for request in self._written)
            used["kv_bytes"] = sum(map(self._bytes_of_written, self._written))
            self.ledger.settle(reserved, **used)
            self._note_time()
        valued = [replace(path, value=value) for path, value in zip(paths, values, strict=True)]
        self._take(Round(most, each, asked, valued))
        return None

    def _take(self, done: Round) -> None:
        """Tells the policy, and keeps what it may go on from."""
        done.tell(self._search)
        for path, request in zip(done.paths, self._written, strict=True):
            self._held[path.node] = request
        self.remember(done)
        self._written = []
        self._let_go()
        done.spent = self.ledger.snapshot()
        self.last = done

    def remember(self, done: Round) -> None:
        """Adds the paths of a round that the policy was told."""
        for path in done.paths:
            self.tree.paths[path.node] = path
            self._live.append(path.node)

    def _notify(self) -> None:
        for observer in self._observers:
            observer()

    def _write(self, asked: Sequence[Expansion], each: int) -> Stop | None:
        """Writes the children of a round, of at most ``each`` tokens."""
        prompts, nodes = [], []
        for expansion in asked:
            leaf = self.tree.paths[expansion.leaf]
            for index in range(expansion.children):
                nodes.append((expansion.first_child + index, leaf))
                prompts.append([*self.prompt, *leaf.token_ids])
        self._nodes = nodes
        options = replace(self._options, max_new_tokens=each)
        numbers = [node for node, _ in nodes]
        self._written = self.engine.submit_all(
            prompts, options, streams=False, owner=self._call, numbers=numbers
        )
        while (waiting := next((r for r in self._written if not r.done), None)) is not None:
            if (cut := self._is_spent(within=True)) is not None:
                return cut
            self.ledger.reserve(forwards=1)
            try:
                self.engine.drive(waiting)
            finally:
                self.ledger.settle({"forwards": 1}, forwards=1)
                self._note_time()
        for request in self._written:
            if request.error is not None:
                raise request.error
        return None

    def _path(self, request: Request) -> Path:
        """The path that a child ends."""
        node, leaf = self._nodes[request.place]
        text = leaf.text + request.generation().text
        logprobs = [*leaf.logprobs, *(entry.logprob for entry in request.logprobs)]
        tokens = [*leaf.token_ids, *request.output]
        path = Path(node, leaf, text, tokens, logprobs, len(leaf.token_ids), self.prompt)
        said = self.finish(path) if self.finish is not None else None
        is_finished = bool(said) or request.finish in ("eos", "context", "stop")
        return replace(path, is_finished=is_finished, answer=said if isinstance(said, str) else None)

    def _is_step(self, prompt_ids: list[int], output_ids: list[int]) -> bool:
        return self.step.is_met(decode(self.engine.tokenizer, output_ids))

    # -- what there is to spend ------------------------------------------------------------------------------

    def _is_spent(self, within: bool = False) -> Stop | None:
        """The kind of cost that ran out; within a round what the round has reserved counts as there."""
        kinds: tuple[Stop, ...] = ("forwards", "seconds")
        if not within:
            kinds = ("tokens", "verifier_calls", *kinds)
        return next((kind for kind in kinds if self.ledger.left(kind) == 0), None)

    def _affordable(self) -> tuple[int | None, Stop | None]:
        """How many children a round may have (None: as many as the policy likes), and what limits them."""
        found: list[tuple[int, Stop]] = []
        tokens, calls, room = (self.ledger.left(kind) for kind in ("tokens", "verifier_calls", "kv_bytes"))
        if tokens is not None:
            found.append((max(tokens // self.step.max_tokens, min(tokens, 1)), "tokens"))
        if calls is not None:
            found.append((calls, "verifier_calls"))
        if room is not None:
            found.append((room // self._bytes_of_child(self.step.max_tokens), "kv_bytes"))
        return min(found, default=(1 << 30, None))

    def _each(self, total: int) -> int:
        """Tokens that each of ``total`` children of a round may have."""
        room = self.ledger.left("tokens")
        return self.step.max_tokens if room is None else min(self.step.max_tokens, room // max(total, 1))

    def _bytes_of_child(self, tokens: int) -> int:
        """Bytes of pages that a child may take at most: its own, and a copy of its parent's last."""
        tree = self.engine.tree
        return (-(-tokens // tree.page_tokens) + 1) * tree.slab_bytes

    def _bytes_of_step(self, begin: int, end: int) -> int:
        """Bytes of the pages that a step with the tokens ``begin`` to ``end`` of an answer has rows on. It
        holds no more of its own: where paths part, the page that they part on is copied."""
        # Its first row is that of the token before it; its last token has none yet.
        first, last = len(self.prompt) + max(begin - 1, 0), len(self.prompt) + end - 2
        page = self.engine.tree.page_tokens
        return max(last // page - first // page + 1, int(end > begin)) * self.engine.tree.slab_bytes

    def _bytes_of_written(self, request: Request) -> int:
        begin = len(request.prompt) - len(self.prompt)
        return self._bytes_of_step(begin, begin + len(request.output))

    def _note_time(self) -> None:
        now = time.perf_counter()
        self.ledger.spend_seconds(now - self._clock)
        self._clock = now

    def _let_go(self) -> None:
        """Gives back the pages of paths that nothing goes on from."""
        live = self._search.live()
        gone = [node for node in self._held if not live[node]]
        self.engine.close_all([self._held.pop(node) for node in gone])
        self._live = [node for node in self._live if live[node]]
        self.ledger.release_bytes(self.ledger.kv_bytes_held - self._bytes_of_live())

    def _bytes_of_live(self) -> int:
        """Bytes of the pages below the prompt of live paths, each step's counted once. So they depend on the
        search alone, not on what was cached, or is still to be read again."""
        steps: dict[int, int] = {}
        for node in self._live:
            path = self.tree.paths[node]
            while path.parent is not None and path.node not in steps:
                steps[path.node] = self._bytes_of_step(path.step, len(path.token_ids))
                path = path.parent
        return sum(steps.values())


def search(
    engine: Engine,
    prompt: Any,
    *,
    recipe: Any,
    value: Any,
    finish: Any,
    step: Any,
    budget: Any,
    seed: Any,
    draft: Any,
    select: Any,
    checkpoint: Any = None,
    resume: Any = None,
    **refused: Any,
) -> SearchResult:
    """What :meth:`hornbeam.LM.search` does, its arguments checked.

    Raises:
        ArgumentError: one of them is not of its kind.
    """
    for name, argument in refused.items():
        if argument is not None:
            raise ArgumentError(f"{name} is given, expected None: a search does not have it yet")
    begun = Begun.of(resume, checkpoint, prompt, recipe, step, budget, seed)
    prompt, recipe, step, budget, seed = begun.prompt, begun.recipe, begun.step, begun.budget, begun.seed
    given = {"value": value, "finish": finish}
    kinds = (
        ("recipe", recipe, Policy, "a policy of hornbeam.search such as hb.recipes.rebase(width=16)"),
        ("step", step, StepEnd, "a hornbeam.search.StepEnd"),
        ("budget", budget, Budget, "a hornbeam.Budget"),
    )
    for name, argument, kind, expected in kinds:
        if not isinstance(argument, kind):
            raise ArgumentError(f"{name} is {argument!r}, expected {expected}")
    if value is None:
        value = Likelihood(as_probability=recipe.wants_probability)
    for name, argument in (("value", value), ("finish", finish), ("select", select)):
        if argument is not None and not callable(argument):
            raise ArgumentError(f"{name} is {argument!r}, expected a callable")
    if step.delimiter is not None and engine.tokenizer is None:
        raise ArgumentError("step has a delimiter, but this LM has no tokenizer; expected delimiter=None")
    seed = whole_number(seed, "seed", 0, 2**64 - 1)
    prompts, many = prompts_of(engine, prompt)
    if many and len(prompts) > 1:
        raise ArgumentError(f"search takes one prompt, got {len(prompts)}")
    searching = Searching(engine, prompts[0], recipe, value, finish, step, budget, seed, draft, select)
    if begun.folder is not None:
        go_on(searching, begun.folder, given)
    elif checkpoint is not None:
        begin(searching, checkpoint, given)
    return searching.run()
