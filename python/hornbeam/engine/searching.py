"""Runs a search: the children of a round are written in one ragged batch, over prefixes that are read once.

A node is a request that has ended and still holds its branch; its children are requests whose prompt is all
that it holds. They share its pages, and read one row of their own before they write.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from hornbeam.engine.beginning import begin
from hornbeam.engine.face import EngineFace
from hornbeam.engine.request import Call, Request
from hornbeam.errors import ArgumentError, BudgetExhausted
from hornbeam.integers import whole_number
from hornbeam.interrupts import end_frames, modes_of_torch, restore_modes
from hornbeam.prompt import prompts_of
from hornbeam.search.budget import Budget, Ledger
from hornbeam.search.path import Path, SearchResult, SearchTree, Stop
from hornbeam.search.policy.base import Expansion, Policy
from hornbeam.search.select import answers
from hornbeam.search.step_end import StepEnd
from hornbeam.search.values import Likelihood, RewardModel
from hornbeam.search.values.base import SearchFacts, ValueTraits, open_value, said_of, values_of
from hornbeam.text import decode

if TYPE_CHECKING:
    from hornbeam.engine.engine import Engine
    from hornbeam.engine.options import Options
    from hornbeam.engine.reading import Reading

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
        said: the prompt, as values are told of it.
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
    said: Any = None
    tree: SearchTree = field(default_factory=SearchTree)
    _held: dict[int, Request] = field(default_factory=dict)  # by node: the branches of what is live

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.budget)
        self._search = self.policy.open(self.seed)
        self._call = Call()
        self._written: list[Request] = []  # of the round under way
        self._ends: list[Reading] = []  # that read the last tokens of these, where hidden states are wanted
        root = Path(0, None, "", [], [], 0, self.prompt)
        self.tree.paths[0] = root
        self._needs_hidden = ValueTraits.of(self.value).needs_hidden
        self._options: Options = self.engine.options_of(
            draft=self.draft,
            temperature=self.policy.temperature,
            top_p=self.policy.top_p,
            stopping_criterion=self._is_step if self.step.delimiter or self._needs_hidden else None,
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
        size = self.engine.model.config.get_text_config().hidden_size
        has_text = self.engine.tokenizer is not None
        self._value = open_value(self.value, SearchFacts(self.said, self.prompt, has_text, size))
        stop: Stop = "over"
        error: BaseException | None = None
        self._clock = time.perf_counter()
        try:
            while not self._search.is_over:
                cut = self._round()
                if cut is not None:
                    stop = cut
                    break
        except KeyboardInterrupt as interrupt:
            end_frames(interrupt)
            self.engine.interrupt([*self._written, *self._ends])
            stop, error = "interrupted", interrupt
        except Exception as raised:
            stop, error = "error", raised
        finally:
            self.engine.close_all([*self._written, *self._ends, *self._held.values()])
            self._held.clear()
            self.ledger.release_bytes(self.ledger.kv_bytes_held)
            restore_modes(modes)
            self._value.close()
        valued = [path for path in self.tree.paths.values() if path.node]
        if not valued:
            if error is not None:
                raise error
            raise BudgetExhausted(
                f"the budget of {stop} was spent before any path was valued: {self.ledger!r}"
            )
        finished = self.tree.finished
        best = self.select(finished) if finished else max(valued, key=lambda path: (path.value, -path.node))
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
            return None
        room = self.ledger.left("tokens")
        each = self.step.max_tokens if room is None else min(self.step.max_tokens, room // total)
        kv_bytes = total * self._bytes_of_child(each)
        reserved = {"tokens": total * each, "verifier_calls": total, "kv_bytes": kv_bytes}
        if not self.ledger.reserve(**reserved):
            raise ArgumentError(f"the policy asked for {total} children, expected at most {most}")
        used = {"tokens": 0, "verifier_calls": 0, "kv_bytes": 0}
        try:
            if (cut := self._write(asked, each)) is not None:
                return cut
            held = [*self._held.values(), *self._written, *self._ends]
            used["kv_bytes"] = self._bytes(held) - self.ledger.kv_bytes_held
            paths = [self._path(request) for request in self._written]
            used["verifier_calls"] = total
            values = values_of(self._value, paths)
        finally:
            used["tokens"] = sum(len(request.output) for request in self._written)
            self.ledger.settle(reserved, **used)
            self._note_time()
        self._take(asked, [replace(path, value=value) for path, value in zip(paths, values, strict=True)])
        return None

    def _take(self, asked: Sequence[Expansion], paths: Sequence[Path]) -> None:
        """Tells the policy, and keeps what it may go on from."""
        begin = 0
        for expansion in asked:
            own = paths[begin : begin + expansion.children]
            self._search.tell(
                expansion.trial,
                [path.value for path in own if path.value is not None],
                [path.is_finished for path in own],
            )
            begin += expansion.children
        for path, request in zip(paths, self._ends or self._written, strict=True):
            self.tree.paths[path.node] = path
            self._held[path.node] = request
        self._written, self._ends = [], []
        self._let_go()

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
        if self._needs_hidden:
            begin(self.engine, self._written, [self._held.get(leaf.node) for _, leaf in nodes])
        if (cut := self._drive(self._written)) is not None or not self._needs_hidden:
            return cut
        texts = [[*request.prompt, *request.output] for request in self._written]
        self._ends = self.engine.read(texts, after=self._written, owner=self._call, wants_hidden=True)
        cut = self._drive(self._ends)
        self.engine.close_all(self._written)  # whose branches the readings have, or do not need
        return cut

    def _drive(self, requests: Sequence[Request]) -> Stop | None:
        """Waits for requests, within what there is to spend."""
        while (waiting := next((r for r in requests if not r.done), None)) is not None:
            if (cut := self._is_spent(within=True)) is not None:
                return cut
            self.ledger.reserve(forwards=1)
            self.engine.drive(waiting)
            self.ledger.settle({"forwards": 1}, forwards=1)
            self._note_time()
        for request in requests:
            if request.error is not None:
                raise request.error
        return None

    def _path(self, request: Request) -> Path:
        """The path that a child ends."""
        node, leaf = self._nodes[request.place]
        text = leaf.text + request.generation().text
        logprobs = [*leaf.logprobs, *(entry.logprob for entry in request.logprobs)]
        tokens = [*leaf.token_ids, *request.output]
        hidden = self._ends[request.place].hidden if self._ends else None
        path = Path(node, leaf, text, tokens, logprobs, len(leaf.token_ids), self.prompt, hidden=hidden)
        said = self.finish(path) if self.finish is not None else None
        is_finished = bool(said) or request.finish in ("eos", "context", "stop")
        is_finished |= self._is_full([*self.prompt, *tokens])
        return replace(path, is_finished=is_finished, answer=said if isinstance(said, str) else None)

    def _is_step(self, prompt_ids: list[int], output_ids: list[int]) -> bool:
        if self._is_full([*prompt_ids, *output_ids]):
            return True
        return self.step.delimiter is not None and self.step.is_met(decode(self.engine.tokenizer, output_ids))

    def _is_full(self, token_ids: Sequence[int]) -> bool:
        """Whether a text that is to be read to its end has no position left."""
        return self._needs_hidden and len(token_ids) >= self.engine.max_positions

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

    def _bytes_of_child(self, tokens: int) -> int:
        """Bytes of pages that a child may take at most: its own, and a copy of its parent's last."""
        tree = self.engine.tree
        return (-(-(tokens + self._needs_hidden) // tree.page_tokens) + 1) * tree.slab_bytes

    def _note_time(self) -> None:
        now = time.perf_counter()
        self.ledger.spend_seconds(now - self._clock)
        self._clock = now

    def _let_go(self) -> None:
        """Gives back the pages of paths that nothing goes on from."""
        live = self._search.live()
        gone = [node for node in self._held if not live[node]]
        self.engine.close_all([self._held.pop(node) for node in gone])
        self._value.forget(gone)
        self.ledger.release_bytes(self.ledger.kv_bytes_held - self._bytes(list(self._held.values())))

    def _bytes(self, requests: Sequence[Request]) -> int:
        """Bytes of the pages below the prompt that these hold, each counted once."""
        begin, page = len(self.prompt), self.engine.tree.page_tokens
        nodes = {
            number: max(start + count - max(start, begin), 0)
            for request in requests
            if not request.is_closed
            for number, start, count in request.branch.nodes()
        }
        return sum(-(-count // page) for count in nodes.values()) * self.engine.tree.slab_bytes


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
    **refused: Any,
) -> SearchResult:
    """What :meth:`hornbeam.LM.search` does, its arguments checked.

    Raises:
        ArgumentError: one of them is not of its kind.
    """
    for name, given in refused.items():
        if given is not None:
            raise ArgumentError(f"{name} is given, expected None: a search does not have it yet")
    kinds = (
        ("recipe", recipe, Policy, "a policy of hornbeam.search such as hb.recipes.rebase(width=16)"),
        ("step", step, StepEnd, "a hornbeam.search.StepEnd"),
        ("budget", budget, Budget, "a hornbeam.Budget"),
    )
    for name, given, kind, expected in kinds:
        if not isinstance(given, kind):
            raise ArgumentError(f"{name} is {given!r}, expected {expected}")
    if value is None:
        value = Likelihood(as_probability=recipe.wants_probability)
    elif isinstance(value, EngineFace):
        value = RewardModel(value)
    for name, given in (("value", value), ("finish", finish), ("select", select)):
        if given is not None and not callable(given):
            raise ArgumentError(f"{name} is {given!r}, expected a callable")
    if step.delimiter is not None and engine.tokenizer is None:
        raise ArgumentError("step has a delimiter, but this LM has no tokenizer; expected delimiter=None")
    seed = whole_number(seed, "seed", 0, 2**64 - 1)
    prompts, many = prompts_of(engine, prompt)
    if many and len(prompts) > 1:
        raise ArgumentError(f"search takes one prompt, got {len(prompts)}")
    if ValueTraits.of(value).needs_hidden and len(prompts[0]) >= engine.max_positions:
        raise ArgumentError(
            f"prompt has {len(prompts[0])} tokens, expected less than the model's {engine.max_positions} "
            "positions: the value needs the hidden state of what follows"
        )
    said = said_of(engine.tokenizer, prompt[0] if many else prompt, prompts[0])
    return Searching(engine, prompts[0], recipe, value, finish, step, budget, seed, draft, select, said).run()
