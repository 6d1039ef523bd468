"""The rows of a search over tokens: beams that share the pages of their prompt, and whose next tokens are
chosen together.

A beam is a request that takes each step with the others, one row each. A beam that two go on from is forked;
one that none goes on from is let go of.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from hornbeam.engine.lockstep import Together
from hornbeam.engine.processors import Processor, checked
from hornbeam.engine.random_key import RandomKey
from hornbeam.engine.request import Request
from hornbeam.results import Finish, Piece, Source
from hornbeam.search.beam_groups import BeamGroups
from hornbeam.search.path import Stop
from hornbeam.speculation.step_draft import Verdict

if TYPE_CHECKING:
    from hornbeam.cache.branch import Branch

__all__ = ["BeamRow", "Beams", "Standing"]


class Standing(NamedTuple):
    """Where the beams stand between two steps; replaced as a whole, so that no interrupt divides it.

    Attributes:
        groups: which beams there are.
        rows: their requests, by place.
        branches: what each holds, by place.
        pending: the token that each goes on with, by place.
        written: tokens that were written so far, over all beams.
        cut: the kind of cost that does not allow the next step, if there is one.
    """

    groups: BeamGroups
    rows: dict[int, BeamRow]
    branches: dict[int, Branch]
    pending: dict[int, int]
    written: int = 0
    cut: Stop | None = None


class _Decision(NamedTuple):
    """What a step decided; it takes effect once the step is committed.

    Attributes:
        before: where the beams stood.
        groups: which beams there are after it.
    """

    before: Standing
    groups: BeamGroups


class Beams:
    """The beams of one search.

    Args:
        groups: before the first step.
        processors: each with token ids ``[beams, n]`` and log-probabilities ``[beams, V]`` of all beams, the
            first step's included, where all beams are the same.
        limit: of where the beams stand: the kind of cost that does not allow the next step, if there is one.
            May be asked again.
    """

    def __init__(
        self,
        groups: BeamGroups,
        processors: Sequence[Processor],
        limit: Callable[[Standing], Stop | None],
    ) -> None:
        self.processors = tuple(processors)
        self.limit = limit
        self.now = Standing(groups, {}, {}, {})
        self._decision: _Decision | None = None

    @property
    def groups(self) -> BeamGroups:
        """Which beams there are."""
        return self.now.groups

    @property
    def rows(self) -> list[BeamRow]:
        """The requests of all beams that there were."""
        return list(self.now.rows.values())

    def begin(self, row: BeamRow) -> None:
        """The prompt, which is the first row."""
        self.now = self.now._replace(rows={0: row}, cut=self.limit(self.now))

    def is_under_way(self, place: int) -> bool:
        """Whether the beam at a place takes part in the next step."""
        return self.now.cut is None and place in self.groups.rows

    # -- a step --------------------------------------------------------------------------------------------

    def verdicts(self, active: Sequence[Request], logits: torch.Tensor) -> list[Verdict]:
        """Decides which beams go on, from the logits ``[len(active), V]``. What a step that was taken back
        has decided stays decided: processors are asked once."""
        if self._decision is None or self._decision.before is not self.now:
            order = sorted(range(len(active)), key=lambda index: active[index].place)
            if order != list(range(len(active))):
                logits = logits[order]
            self._decision = _Decision(self.now, self._decide(logits))
        return [Verdict([], 0) for _ in active]

    def _decide(self, logits: torch.Tensor) -> BeamGroups:
        groups = self.groups
        raw = torch.log_softmax(logits.float(), dim=-1)
        if groups.num_tokens == 0:
            raw = raw.expand(len(groups.rows), -1)
        scores = raw
        if self.processors:
            prompt = torch.tensor([self.now.rows[0].prompt], device=raw.device)
            ids = torch.cat((prompt.expand(len(raw), -1), groups.token_ids()), dim=1)
            scores = raw.clone(memory_format=torch.contiguous_format)
            for processor in self.processors:
                scores = checked(processor, processor(ids, scores), scores)
        return groups.step(scores, raw)

    def advance(self) -> None:
        """Takes up what the step under way has decided, which is committed. May be called again."""
        decision, now = self._decision, self.now
        if decision is None or decision.before is not now:
            return
        groups = decision.groups
        is_first = now.groups.num_tokens == 0
        held = {place: row.branch for place, row in now.rows.items() if not row.is_closed}
        # The prompt's row keeps what it holds, where its own group ends with the first step.
        branches, taken = dict(held), {0} if is_first and 0 not in groups.rows else set[int]()
        for place, parent in zip(groups.rows, groups.parents, strict=True):
            parent = 0 if is_first else parent
            branches[place] = held[parent].fork() if parent in taken else held[parent]
            taken.add(parent)
        rows, pending = dict(now.rows), dict(zip(groups.rows, groups.last(), strict=True))
        if is_first:
            for place in groups.rows:
                if place not in rows:
                    rows[place] = now.rows[0].sibling(place, branches[place], pending[place])
        after = Standing(groups, rows, branches, pending, now.written + len(now.groups.rows))
        self.now = after._replace(cut=self.limit(after))

    def join(self) -> None:
        """Has the beams that the first step has made take part in the next. May be called again."""
        if self.groups.num_tokens == 1:
            for row in self.rows:
                if not row.done:
                    row.engine.join(row)


class BeamRow(Together):
    """One beam. Which text it is changes from step to step."""

    def __init__(self, *arguments: Any, beams: Beams, **options: Any) -> None:
        self.beams = beams
        super().__init__(*arguments, **options)
        beams.begin(self)

    def sibling(self, place: int, branch: Branch, pending: int) -> BeamRow:
        """The request of another beam, with what it holds and the token that it goes on with."""
        row = self.continued(self.index, RandomKey(place), branch)
        row.place, row.group, row.fresh, row.pending = place, self.group, None, pending
        return row

    @property
    def finish(self) -> Finish | None:
        """Why it has ended; a beam itself ends with all of its group."""
        own = super().finish
        return own if own is not None or self.beams.is_under_way(self.place) else "length"

    @property
    def tokens(self) -> list[int]:
        """What follows the prompt."""
        groups = self.beams.groups
        at = groups.rows.index(self.place)
        tokens: list[int] = groups.token_ids()[at].tolist()
        return tokens

    @property
    def committed(self) -> list[int]:
        """All but the last token of prompt and beam."""
        return [*self.prompt, *self.tokens][:-1]

    @property
    def num_committed(self) -> int:
        """Their number."""
        return len(self.prompt) + self.beams.groups.num_tokens - 1

    def cut(self, fresh: list[tuple[int, Source]]) -> list[Piece]:
        """One token, which the search chooses."""
        return [Piece(token, source, "") for token, source in fresh]

    def take_back(self) -> None:
        """Forgets what was cut and not emitted."""
        self.fresh = None

    def emit(self) -> list[Piece]:
        """Goes on with the beam that the step has given its place. May be done again after an interrupt."""
        assert self.fresh is not None
        self.beams.advance()
        now, before = self.beams.now, self.branch
        if self.place in now.pending:
            self.pending = now.pending[self.place]
        self._branch = now.branches[self.place]
        # No generator, whose frame would hold the branch that it asks about beyond an interrupt.
        if before not in now.branches.values():
            before.drop(keep=False)
        self.beams.join()
        self.fresh = None
        return [Piece(self.pending, "plain", "")]

    def close(self, keep: bool = True) -> None:
        """Releases what it holds, and what it was to hold next; with ``keep`` it stays cached."""
        super().close(keep)
        held = self.beams.now.branches.get(self.place)
        if held is not None:
            held.drop(keep)

    def fail(self, error: BaseException) -> None:
        """Ends all of them."""
        for row in self.beams.rows:
            if not row.done:
                row.error = error
