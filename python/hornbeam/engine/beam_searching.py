"""Runs a search over tokens: its budget, and what it has found at whatever point it ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from hornbeam.engine.beams import Beams, Standing
from hornbeam.engine.request import Call
from hornbeam.engine.search_memory import bytes_of, pages_below
from hornbeam.engine.search_spending import take_step
from hornbeam.errors import ArgumentError, BudgetExhausted
from hornbeam.interrupts import end_frames, modes_of_torch, restore_modes
from hornbeam.search.beam_groups import Ended
from hornbeam.search.budget import Budget, Ledger
from hornbeam.search.path import Path, SearchResult, SearchTree, Stop
from hornbeam.search.policy.base import TokenPolicy
from hornbeam.search.select import answers, chosen
from hornbeam.text import continuation

if TYPE_CHECKING:
    from hornbeam.cache.branch import Branch
    from hornbeam.engine.engine import Engine

__all__ = ["BeamSearching"]


@dataclass
class BeamSearching:
    """One search over tokens under way.

    Attributes:
        engine: takes the steps, with whatever else is under way on it.
        prompt: token ids.
        policy: how beams are chosen.
        budget: what may be spent.
        select: chooses among the beams that ended.
        processor: the caller's, as ``logits_processor=`` of :meth:`hornbeam.LM.generate` has it.
        sparse: ``attend`` and ``prefill``, as there.
    """

    engine: Engine
    prompt: list[int]
    policy: TokenPolicy
    budget: Budget
    select: Callable[[Sequence[Path]], Path | None]
    processor: Any
    sparse: dict[str, Any] = field(default_factory=dict)
    _peak_bytes: int = 0

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.budget)
        self._call = Call()
        room = self.engine.max_positions - len(self.prompt) + 1
        if room < 1:
            raise ArgumentError(
                f"the prompt has {len(self.prompt)} tokens, expected at most the model's "
                f"{self.engine.max_positions} positions"
            )
        count = min(self.policy.max_new_tokens, room)
        asked = self.engine.options_of(
            max_new_tokens=count, draft=None, logits_processor=self.processor, defaults="text"
        )
        processors = self.engine.checkpoint.processors_of(asked, 0, self.prompt)
        groups = self.policy.start(count, asked.eos_token_ids, self.engine.runner.shape.device)
        self.beams = Beams(groups, processors, self._limit)

    def run(self) -> SearchResult:
        """Searches to the end, or as far as the budget goes.

        Raises:
            BudgetExhausted: the budget ran out before the first token.
            BaseException: what the model or a processor raised, or Ctrl-C, before the first token.
        """
        modes = modes_of_torch()
        stop: Stop = "over"
        error: BaseException | None = None
        self._clock = time.perf_counter()
        try:
            stop = self._write()
        except KeyboardInterrupt as interrupt:
            end_frames(interrupt)
            self.engine.interrupt(self.beams.rows)
            stop, error = "interrupted", interrupt
        except Exception as raised:
            stop, error = "error", raised
        finally:
            self.engine.close_all(self.beams.rows)
            self._note()
            self.ledger.release_bytes(self.ledger.kv_bytes_held)
            restore_modes(modes)
        return self._result(stop, error)

    def _write(self) -> Stop:
        """Takes steps; why they end."""
        plain = self.engine.options_of(draft=None, defaults="none", **self.sparse)
        self.engine.submit_all(
            [self.prompt], plain, streams=False, releases=True, owner=self._call, beams=self.beams
        )
        while (waiting := next((row for row in self.beams.rows if not row.done), None)) is not None:
            spent: tuple[Stop, ...] = ("forwards", "seconds")
            if (cut := next((kind for kind in spent if self.ledger.left(kind) == 0), None)) is not None:
                return cut
            take_step(self.engine, self.ledger, waiting)
            self._note()
        error = next((row.error for row in self.beams.rows if row.error is not None), None)
        if error is not None:
            raise error
        return self.beams.now.cut or "over"

    def _limit(self, now: Standing) -> Stop | None:
        """The kind of cost that does not allow the next step: a token a beam, and at most a page for each."""
        held = self._bytes(list(now.branches.values()))
        self._peak_bytes = max(self._peak_bytes, held)
        count, tokens, kv_bytes = len(now.groups.rows), self.budget.tokens, self.budget.kv_bytes
        if not count:
            return None
        if tokens is not None and now.written + count > tokens:
            return "tokens"
        if kv_bytes is not None and held + count * self.engine.tree.slab_bytes > int(kv_bytes):
            return "kv_bytes"
        return None

    def _note(self) -> None:
        """Notes in the ledger what was spent."""
        written = self.beams.now.written - self.ledger.tokens
        kv_bytes = max(self._peak_bytes - self.ledger.kv_bytes_held, 0)
        spent = {"tokens": written, "kv_bytes": kv_bytes}
        self.ledger.reserve(**spent)
        self.ledger.settle(spent, **spent)
        now = time.perf_counter()
        self.ledger.spend_seconds(now - self._clock)
        self._clock = now

    def _bytes(self, branches: Sequence[Branch]) -> int:
        """Bytes of the pages below the prompt that these hold, each counted once."""
        pages: dict[int, int] = {}
        for branch in branches:
            pages.update(pages_below(branch, len(self.prompt)))
        return bytes_of(pages, self.engine.tree)

    # -- what there is at the end ----------------------------------------------------------------------------

    def _result(self, stop: Stop, error: BaseException | None) -> SearchResult:
        groups = self.beams.groups
        ended, under_way = groups.ended(), groups.under_way()
        if not ended and not under_way:
            if error is not None:
                raise error
            raise BudgetExhausted(f"the budget of {stop} was spent before the first token: {self.ledger!r}")
        root = Path(0, None, "", [], [], 0, self.prompt)
        paths = [
            root,
            *(self._path(number, beam, root) for number, beam in enumerate([*ended, *under_way], 1)),
        ]
        finished = [replace(path, is_finished=True) for path in paths[1 : len(ended) + 1]]
        tree = SearchTree({path.node: path for path in [root, *finished, *paths[len(ended) + 1 :]]})
        best, fault = chosen(self.select, finished, (finished or paths[1:])[0])
        if fault is not None and error is None:
            stop, error = "error", fault
        return SearchResult(best, answers(finished), self.ledger, tree, stop, error)

    def _path(self, number: int, beam: Ended, root: Path) -> Path:
        tokenizer = self.engine.tokenizer
        text = "" if tokenizer is None else continuation(tokenizer, self.prompt, beam.token_ids)
        return Path(number, root, text, beam.token_ids, beam.logprobs, 0, self.prompt, value=beam.score)
