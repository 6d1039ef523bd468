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

from hornbeam.engine.request import Call, Request
from hornbeam.engine.search_memory import SearchMemory
from hornbeam.engine.search_records import describe, node_records
from hornbeam.errors import ArgumentError, BudgetExhausted
from hornbeam.interrupts import end_frames, modes_of_torch, restore_modes
from hornbeam.search.budget import Budget, Ledger
from hornbeam.search.checkpoint import Round
from hornbeam.search.history import SearchHistory
from hornbeam.search.path import Path, SearchResult, SearchTree, Stop
from hornbeam.search.policy.base import Policy, Search
from hornbeam.search.progress import SearchProgress
from hornbeam.search.select import answers
from hornbeam.search.select import best as greatest
from hornbeam.search.step_end import StepEnd
from hornbeam.search.value import values_of
from hornbeam.text import decode

if TYPE_CHECKING:
    from hornbeam.engine.engine import Engine
    from hornbeam.engine.options import Options

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
        select: chooses among the finished paths.
        logits_processor: of every path, its answer depends on its arguments alone.
        watch: is told after each round where the search stands.
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
        self._observers.append(self._tell_watch)
        self._written: list[Request] = []  # of the round under way
        root = Path(0, None, "", [], [], 0, self.prompt)
        self.tree.paths[0] = root
        self._options: Options = self.engine.options_of(
            draft=self.draft,
            keep=self.keep,
            logits_processor=self.logits_processor,
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
            self.engine.close_all(self._written)
            self._memory.close()
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
        return SearchResult(best, answers(finished), self.ledger, self.tree, stop, error, self.history)

    def _round(self) -> Stop | None:
        """One round; why the search ends with it, if it does."""
        if (cut := self._is_spent()) is not None:
            return cut
        self._let_go()
        most, cut = self.affordable()
        if not most:
            return cut
        asked = self._search.ask(most)
        total = sum(expansion.children for expansion in asked)
        if not total:
            if not self._search.is_over:
                raise ArgumentError("the policy asked for nothing, expected an expansion or the end of it")
            return None
        live = self._search.live()
        if gone := [expansion.leaf for expansion in asked if not live[expansion.leaf]]:
            raise ArgumentError(f"the policy goes on from node {min(gone)}, expected one that is live")
        each = self.each(total)
        reserved = {"tokens": total * each, "verifier_calls": total}
        if total > most or not self.ledger.reserve(**reserved):
            raise ArgumentError(f"the policy asked for {total} children, expected at most {most}")
        used = {"tokens": 0, "verifier_calls": 0}
        self._written, paths = [], []
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
                paths += map(self._path, wave, self._written[len(paths) :])
            used["verifier_calls"] = total
            values = values_of(self.value, paths)
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
        limit = self.budget.kv_bytes
        if limit is None or self.keep is not None:
            return list(children)
        assert not isinstance(limit, str)
        found: list[Child] = []
        leaves, needed = set[int](), 0
        for node, leaf in children:
            more = self._memory.step_bytes(each)
            if leaf.node not in self._memory and leaf.node not in leaves:
                more += self._memory.path_bytes(leaf)
            if found and self._memory.bytes() + needed + more > limit:
                break
            found.append((node, leaf))
            leaves.add(leaf.node)
            needed += more
            if len(found) == 1:
                self._memory.make_room(needed, limit, self.tree.paths, leaves)
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
        reserved = sum(self._bytes_of_child(leaf, each) for _, leaf in wave)
        leaves = {leaf.node: leaf for _, leaf in wave if leaf.node not in self._memory}
        reserved += sum(map(self._memory.path_bytes, leaves.values()))
        if not self.ledger.reserve(kv_bytes=reserved):
            return "kv_bytes"
        used = 0
        numbers = [node for node, _ in wave]
        written: list[Request] = []
        try:
            written = self._submit(wave, numbers, replace(self._options, max_new_tokens=each))
            self._written += written
            if (cut := self._step(written)) is not None:
                return cut
            self._memory.hold(numbers, written)
            # Runs of tokens that were two may have become one, in fewer pages.
            used = max(self._memory.bytes() - self.ledger.kv_bytes_held, 0)
        finally:
            self.ledger.settle({"kv_bytes": reserved}, kv_bytes=used)
            self._memory.give_back([])
        return None

    def _submit(self, wave: Sequence[Child], numbers: list[int], options: Options) -> list[Request]:
        """Children go on from their leaf's branch where it is held; else the path is read anew."""
        places = [place for place, (_, leaf) in enumerate(wave) if leaf.node in self._memory]
        others = [place for place, (_, leaf) in enumerate(wave) if leaf.node not in self._memory]
        prompts = [[*self.prompt, *wave[place][1].token_ids] for place in others]
        anew = self.engine.submit_all(
            prompts,
            options,
            streams=False,
            owner=self._call,
            numbers=[numbers[place] for place in others],
        )
        parents = [self._memory[wave[place][1].node] for place in places]
        held = self.engine.go_on_from(parents, [numbers[place] for place in places], options)
        found = dict(zip([*others, *places], [*anew, *held], strict=True))
        return [found[place] for place in range(len(wave))]

    def _step(self, written: Sequence[Request]) -> Stop | None:
        """Takes steps until these are done."""
        while (waiting := next((request for request in written if not request.done), None)) is not None:
            if (cut := self._is_spent(within=True)) is not None:
                return cut
            self.ledger.reserve(forwards=1)
            try:
                self.engine.drive(waiting)
            finally:
                self.ledger.settle({"forwards": 1}, forwards=1)
                self._note_time()
        for request in written:
            if request.error is not None:
                raise request.error
        return None

    def _path(self, child: Child, request: Request) -> Path:
        """The path that a child ends."""
        node, leaf = child
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

    def affordable(self) -> tuple[int | None, Stop | None]:
        """How many children a round may have (None: as many as the policy likes), and what limits them."""
        found: list[tuple[int, Stop]] = []
        tokens, calls = self.ledger.left("tokens"), self.ledger.left("verifier_calls")
        limit = self.budget.kv_bytes
        if tokens is not None:
            found.append((max(tokens // self.step.max_tokens, min(tokens, 1)), "tokens"))
        if calls is not None:
            found.append((calls, "verifier_calls"))
        if limit is not None and self.keep is not None:
            # What a branch has let go cannot be computed anew: there are as many children as there is room.
            sizes = (self._bytes_of_child(leaf, self.step.max_tokens) for leaf in self._leaves())
            most = max(sizes, default=1)
            found.append(((self.ledger.left("kv_bytes") or 0) // most, "kv_bytes"))
        elif limit is not None:
            # The deepest path alone has to fit; what else is held is let go for it.
            assert not isinstance(limit, str)
            deepest = max(map(self._memory.path_bytes, self._leaves()), default=0)
            if deepest + self._memory.step_bytes(self.step.max_tokens) > limit:
                found.append((0, "kv_bytes"))
        return min(found, default=(1 << 30, None))

    def _leaves(self) -> list[Path]:
        live = enumerate(self._search.live())
        return [self.tree.paths[node] for node, is_live in live if is_live and node in self.tree.paths]

    def _bytes_of_child(self, leaf: Path, tokens: int) -> int:
        """Bytes of pages that a child of ``leaf`` may take beside it: with ``keep`` what a reduction writes
        anew, which may be all."""
        others = 0 if self.keep is None else len(self.prompt) + len(leaf.token_ids)
        return self._memory.step_bytes(others + tokens)

    def each(self, total: int) -> int:
        """Tokens that each of ``total`` children of a round may have."""
        room = self.ledger.left("tokens")
        return self.step.max_tokens if room is None else min(self.step.max_tokens, room // max(total, 1))

    def _note_time(self) -> None:
        now = time.perf_counter()
        self.ledger.spend_seconds(now - self._clock)
        self._clock = now

    def _let_go(self) -> list[int]:
        """Gives back the pages of paths that nothing goes on from, and says which."""
        return self._memory.keep_only({node for node, is_live in enumerate(self._search.live()) if is_live})
