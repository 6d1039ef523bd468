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
from hornbeam.engine.request import Call, Request
from hornbeam.engine.search_memory import SearchMemory
from hornbeam.engine.search_records import describe, node_records
from hornbeam.engine.search_spending import SearchSpending, take_step
from hornbeam.errors import ArgumentError, BudgetExhausted
from hornbeam.interrupts import end_frames, modes_of_torch, restore_modes
from hornbeam.search.budget import KINDS, Budget, Ledger
from hornbeam.search.checkpoint import Round
from hornbeam.search.history import SearchHistory
from hornbeam.search.path import Path, SearchResult, SearchTree, Stop
from hornbeam.search.policy.base import Policy, Search
from hornbeam.search.progress import SearchProgress
from hornbeam.search.select import answers, chosen
from hornbeam.search.select import best as greatest
from hornbeam.search.step_end import StepEnd
from hornbeam.search.values.base import SearchFacts, ValueTraits, open_value, values_of
from hornbeam.text import decode

if TYPE_CHECKING:
    from hornbeam.engine.engine import Engine
    from hornbeam.engine.options import Options
    from hornbeam.engine.reading import Reading

__all__ = ["Searching"]

Finish = Callable[[Path], Any]
Child = tuple[int, Path]
"""The number of a node that is to be written, and the leaf that it goes on from."""
Watch = Callable[[SearchProgress], Any]


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
        keep: of every path; a step goes on from what its leaf has kept.
        attend, prefill: of every path; what a step goes on from is held, since reading it anew is other keys.
        select: chooses among the finished paths.
        logits_processor: of every path, its answer depends on its arguments alone.
        watch: is told after each round where the search stands.
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
    keep: Any
    select: Callable[[Sequence[Path]], Path | None]
    logits_processor: Any = None
    watch: Watch | None = None
    said: Any = None
    attend: Any = None
    prefill: Any = None
    tree: SearchTree = field(default_factory=SearchTree)
    history: SearchHistory = field(default_factory=SearchHistory)
    last: Round | None = None  # the last that is whole
    _observers: list[Callable[[], None]] = field(default_factory=list)  # called after a round and at the end

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.budget)
        self._memory = SearchMemory(self.engine, len(self.prompt), self.ledger)
        describe(self.history, self)
        self._search = self.policy.open(self.seed)
        self._call = Call()
        self.observe(self._tell_watch)
        self._written: list[Request] = []  # of the round under way
        self._ends: list[Reading] = []  # that read the last tokens of these, where hidden states are wanted
        self._alive: set[int] = set()  # nodes that values were not told to forget
        root = Path(0, None, "", [], [], 0, self.prompt)
        self.tree.paths[0] = root
        self._needs_hidden = ValueTraits.of(self.value).needs_hidden
        self._is_held = any(part is not None for part in (self.keep, self.attend, self.prefill))
        limit = self.budget.limits()[KINDS.index("kv_bytes")]
        self.spending = SearchSpending(
            self.ledger,
            self._memory,
            self.step,
            limit,
            is_reducing=self._is_held,
            more=int(self._needs_hidden),
        )
        self._options: Options = self.engine.options_of(
            draft=self.draft,
            keep=self.keep,
            attend=self.attend,
            prefill=self.prefill,
            logits_processor=self.logits_processor,
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
        size = self.engine.model.config.get_text_config().hidden_size
        has_text = self.engine.tokenizer is not None
        self._value = open_value(self.value, SearchFacts(self.said, self.prompt, has_text, size))
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
            self.engine.interrupt([*self._written, *self._ends])
            stop, error = "interrupted", interrupt
        except Exception as raised:
            stop, error = "error", raised
        finally:
            self.engine.close_all([*self._written, *self._ends])
            self._memory.close()
            self._note_time()
            restore_modes(modes)
            self._value.close()
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
        best, fault = chosen(self.select, finished, greatest(finished or valued))
        if fault is not None and error is None:
            stop, error = "error", fault
        return SearchResult(best, answers(finished), self.ledger, self.tree, stop, error, self.history)

    def _round(self) -> Stop | None:
        """One round; why the search ends with it, if it does."""
        if (cut := self.spending.spent()) is not None:
            return cut
        self._let_go()
        most, cut = self.spending.affordable(self.leaves())
        if not most:
            return cut
        asked = self._search.ask(most)
        total = sum(expansion.children for expansion in asked)
        if not total:
            if not self._search.is_over:
                raise ArgumentError("the policy asked for nothing, expected an expansion or the end of it")
            return None
        live = {node for node, is_live in enumerate(self._search.live()) if is_live}
        if gone := {expansion.leaf for expansion in asked} - live:
            raise ArgumentError(f"the policy goes on from node {min(gone)}, expected one that is live")
        each = self.spending.each(total)
        reserved = {"tokens": total * each, "verifier_calls": total}
        if total > most or not self.ledger.reserve(**reserved):
            raise ArgumentError(f"the policy asked for {total} children, expected at most {most}")
        used = {"tokens": 0, "verifier_calls": 0}
        self._written, self._ends = [], []
        paths: list[Path] = []
        children = [
            (expansion.first_child + index, self.tree.paths[expansion.leaf])
            for expansion in asked
            for index in range(expansion.children)
        ]
        try:
            while len(paths) < total:
                wave = self._wave(children[len(paths) :], each)
                if (cut := self._write(wave, each)) is not None:
                    return cut
                done = len(paths)
                ends: Sequence[Reading | None] = self._ends[done:] or [None] * len(wave)
                paths += map(self._path, wave, self._written[done:], ends)
            used["verifier_calls"] = total
            values = values_of(self._value, paths)
        finally:
            used["tokens"] = sum(len(request.output) for request in self._written)
            self.ledger.settle(reserved, **used)
            self._note_time()
        valued = [replace(path, value=value) for path, value in zip(paths, values, strict=True)]
        self._take(Round(most, each, asked, valued))
        return None

    def _wave(self, children: Sequence[Child], each: int) -> list[Child]:
        """As many of the children as there is room for at a time; branches that are needed least are let go
        for them, and computed anew when they are needed again."""
        limit = self.spending.kv_bytes
        if limit is None or not self.spending.allows_passes:
            return list(children)
        found: list[Child] = []
        leaves, needed, held = set[int](), 0, 0
        for node, leaf in children:
            more = self.spending.child_bytes(leaf, each)
            if leaf.node not in self._memory:
                more += self._memory.path_bytes(leaf)
            if found and held + needed + more > limit:
                break
            found.append((node, leaf))
            leaves.add(leaf.node)
            needed += more
            if len(found) == 1:
                self._memory.make_room(needed, limit, self.tree.paths, leaves)
                held = self._memory.bytes()
        return found

    def _take(self, done: Round) -> None:
        """Tells the policy, and keeps what it may go on from."""
        self.tell(self._search, done)
        written = node_records(
            self.engine, done.paths, self._written, self._memory.pages(), len(self.history.rounds) + 1
        )
        kv_bytes = self.ledger.kv_bytes_held
        self._written = []
        gone = self._let_go()
        live = [node for node, is_live in enumerate(self._search.live()) if is_live]
        self.history.note(self.ledger, written=written, released=gone, live=live, kv_bytes=kv_bytes)
        done.spent = self.ledger.snapshot()
        self.last = done

    def tell(self, search: Search, done: Round) -> None:
        """Tells a policy what became of a round that it asked for, and adds its paths to the tree."""
        page = self.engine.tree.page_tokens
        pages = [-(-(len(path.token_ids) - path.step) // page) for path in done.paths]
        done.tell(search, self.policy.notes(done.paths, [n * self.engine.tree.slab_bytes for n in pages]))
        self.tree.paths.update((path.node, path) for path in done.paths)
        self._alive.update(path.node for path in done.paths)

    def repeat(self, done: Round, most: int) -> None:
        """Takes up a round that was saved: nothing is written."""
        self._search.ask(most)
        self.tell(self._search, done)
        self.ledger.go_on_from(done.spent)
        self._memory.give_back([])

    def observe(self, observer: Callable[[], None]) -> None:
        """Calls ``observer`` after each round, and at the end."""
        self._observers.append(observer)

    def _notify(self) -> None:
        for observer in self._observers:
            observer()

    def _tell_watch(self) -> None:
        if self.watch is not None:
            rounds = self.history.rounds
            live = rounds[-1].live if rounds else []
            self.watch(SearchProgress(len(rounds), self.tree, live, self.ledger, self.budget))

    def _write(self, wave: Sequence[Child], each: int) -> Stop | None:
        """Writes some children of a round, of at most ``each`` tokens."""
        if not self._is_held:
            self._memory.drop_outdated()
        reserved = sum(self.spending.child_bytes(leaf, each) for _, leaf in wave)
        if not self._is_held:
            anew = [leaf for _, leaf in wave if leaf.node not in self._memory]
            reserved += sum(map(self._memory.path_bytes, anew))
        if not self.ledger.reserve(kv_bytes=reserved):
            return "kv_bytes"
        used = 0
        numbers = [node for node, _ in wave]
        written: list[Request] = []
        try:
            written = self._submit(wave, numbers, replace(self._options, max_new_tokens=each))
            if (cut := self._step(written)) is not None:
                return cut
            holders: list[Request] = written
            if self._needs_hidden:
                texts = [[*request.prompt, *request.output] for request in written]
                self._ends += self.engine.read(texts, after=written, owner=self._call, wants_hidden=True)
                holders = [*self._ends[-len(written) :]]
                cut = self._step(holders)
                self.engine.close_all(written)  # whose branches the readings have, or do not need
                if cut is not None:
                    return cut
            self._memory.hold(numbers, holders)
            # Runs of tokens that were two may have become one, in fewer pages.
            used = max(self._memory.bytes() - self.ledger.kv_bytes_held, 0)
        finally:
            self.ledger.settle({"kv_bytes": reserved}, kv_bytes=used)
            self._memory.give_back([])
        return None

    def _submit(self, wave: Sequence[Child], numbers: list[int], options: Options) -> list[Request]:
        """Children go on from their leaf's branch where it is held; else the path is read anew. All are added
        to what was written."""
        is_held = [leaf.node in self._memory and not self._needs_hidden for _, leaf in wave]
        held = [place for place, one in enumerate(is_held) if one]
        others = [place for place, one in enumerate(is_held) if not one]
        begin_at = len(self._written)
        if others:
            self._written += self.engine.submit_all(
                [[*self.prompt, *wave[place][1].token_ids] for place in others],
                options,
                streams=False,
                owner=self._call,
                numbers=[numbers[place] for place in others],
            )
        if self._needs_hidden:
            before = [self._memory.get(leaf.node) for _, leaf in wave]
            begin(self.engine, self._written[begin_at:], before)
        if held:
            parents = [self._memory[wave[place][1].node] for place in held]
            self._written += self.engine.go_on_from(parents, [numbers[place] for place in held], options)
        found = dict(zip([*others, *held], self._written[begin_at:], strict=True))
        self._written[begin_at:] = [found[place] for place in range(len(wave))]
        return self._written[begin_at:]

    def _step(self, written: Sequence[Request]) -> Stop | None:
        """Takes steps until these are done."""
        while (waiting := next((request for request in written if not request.done), None)) is not None:
            if (cut := self.spending.spent(within=True)) is not None:
                return cut
            try:
                take_step(self.engine, self.ledger, waiting)
            finally:
                self._note_time()
        for request in written:
            if request.error is not None:
                raise request.error
        return None

    def _path(self, child: Child, request: Request, end: Reading | None) -> Path:
        """The path that a child ends."""
        node, leaf = child
        text = leaf.text + request.generation().text
        logprobs = [*leaf.logprobs, *(entry.logprob for entry in request.logprobs)]
        tokens = [*leaf.token_ids, *request.output]
        hidden = None if end is None else end.hidden
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

    def leaves(self) -> list[Path]:
        """The paths that may be gone on from."""
        live = enumerate(self._search.live())
        return [self.tree.paths[node] for node, is_live in live if is_live and node in self.tree.paths]

    def _note_time(self) -> None:
        now = time.perf_counter()
        self.ledger.spend_seconds(now - self._clock)
        self._clock = now

    def _let_go(self) -> list[int]:
        """Gives back the pages of paths that nothing goes on from, and says which."""
        live = {node for node, is_live in enumerate(self._search.live()) if is_live}
        gone = self._memory.keep_only(live)
        self._value.forget(sorted(self._alive - live))
        self._alive &= live
        return gone
