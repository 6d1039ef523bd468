"""Which beams go on: the choice of a beam search over tokens, step by step, from log-probabilities alone."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from hornbeam.errors import LogitsError

__all__ = ["BeamGroup", "BeamGroups", "BeamRules", "Ended"]

#: What transformers puts for a score that is out of the question, in float32.
OUT = -1.0e9
#: Scores from here down are made of it: they are equal to each other where their texts are not.
_NEARLY_OUT = -1.0e8
#: Below so many numbers ``torch.topk`` itself is the quickest.
_MANY = 1 << 15
_BLOCKS = (64, 32, 16, 8)


@dataclass(frozen=True)
class BeamRules:
    """What all groups of a search have in common.

    Attributes:
        width: beams of a group.
        length_penalty: a score is the sum of log-probabilities over the length to this power.
        early_stopping: True ends a group once it has ``width`` ended beams; False once no beam under way can
            be better at its length; ``"never"`` once none can at any length.
        max_new_tokens: tokens of a beam.
        eos_token_ids: tokens that end one.
    """

    width: int
    length_penalty: float
    early_stopping: bool | Literal["never"]
    max_new_tokens: int
    eos_token_ids: tuple[int, ...] = ()

    @property
    def num_candidates(self) -> int:
        """Continuations that are looked at: enough for ``width`` to go on, whichever of the others end."""
        return max(2, 1 + len(self.eos_token_ids)) * self.width


@dataclass(frozen=True)
class Ended:
    """A beam, ended or not.

    Attributes:
        score: the sum of its log-probabilities over its length to the power of the penalty.
        token_ids: of the continuation.
        logprobs: of each token under the raw model.
    """

    score: float
    token_ids: list[int]
    logprobs: list[float]


@dataclass(frozen=True)
class BeamGroup:
    """Beams that compete with each other, between two steps. A step gives the next group, and changes none.

    The rules are those of transformers' beam search, and so is the order of the float32 operations: sums of
    log-probabilities are compared among all beams' continuations; those that end are taken out of the best
    ``width`` alone; -1e9 stands for what is out of the question.

    Attributes:
        rules: of the search.
        num_tokens: of each beam under way.
        tokens: of the beams under way, ``[width, max_new_tokens]``; so too ``logprobs`` under the raw model.
        scores: sums of log-probabilities, ``[width]``, descending.
        parents: the beam of the step before that each goes on from.
        ended_tokens, ended_logprobs: of the best that ended, likewise.
        ended_scores: with the penalty for their lengths, ``[width]``, descending.
        lengths: theirs.
        is_ended: whether there is one.
        is_improvable: whether a beam under way may still be better than one that ended.
        is_over: whether there is no further step.
    """

    rules: BeamRules
    num_tokens: int
    tokens: Tensor
    logprobs: Tensor
    scores: Tensor
    parents: tuple[int, ...]
    ended_tokens: Tensor
    ended_logprobs: Tensor
    ended_scores: Tensor
    lengths: Tensor
    is_ended: Tensor
    is_improvable: bool = True
    is_over: bool = False

    @classmethod
    def start(cls, rules: BeamRules, device: torch.device) -> BeamGroup:
        """``width`` beams of no tokens, of which all but the first are out of the question."""
        width = rules.width
        tokens = torch.zeros((width, rules.max_new_tokens), dtype=torch.int64, device=device)
        logprobs = torch.zeros((width, rules.max_new_tokens), dtype=torch.float32, device=device)
        scores = torch.full((width,), OUT, dtype=torch.float32, device=device)
        scores[0] = 0.0
        return cls(
            rules,
            0,
            tokens,
            logprobs,
            scores,
            (0,) * width,
            tokens,
            logprobs,
            torch.full_like(scores, OUT),
            torch.zeros(width, dtype=torch.int64, device=device),
            torch.zeros(width, dtype=torch.bool, device=device),
        )

    def step(self, logprobs: Tensor, raw: Tensor) -> BeamGroup:
        """The group one token further.

        Args:
            logprobs: ``[width, V]`` after each beam, processed.
            raw: the same under the raw model.

        Raises:
            LogitsError: there are NaN or +inf, or nothing finite.
        """
        rules, vocabulary, length = self.rules, logprobs.shape[1], self.num_tokens + 1
        values, places = _largest((logprobs + self.scores[:, None]).view(-1), rules.num_candidates)
        best = values[0].item()
        if not math.isfinite(best):
            raise LogitsError(f"the log-probabilities of a beam search have {best} as greatest")
        parents, fresh = places // vocabulary, places % vocabulary
        tokens = self.tokens.index_select(0, parents)
        tokens[:, self.num_tokens] = fresh
        seen = self.logprobs.index_select(0, parents)
        seen[:, self.num_tokens] = raw.reshape(-1).index_select(0, places)
        ends = torch.full_like(fresh, length >= rules.max_new_tokens, dtype=torch.bool)
        if rules.eos_token_ids:
            ends |= torch.isin(fresh, torch.tensor(rules.eos_token_ids, device=fresh.device))
        group, are_ending = self, bool(ends[: rules.width].any())
        if are_ending:
            group = self._with_ended(values, tokens, seen, ends)
        going = values + ends.to(torch.float32) * OUT
        order = torch.topk(going, rules.width).indices
        scores = going.index_select(0, order)
        horizon = length
        if rules.early_stopping == "never" and rules.length_penalty > 0.0:
            horizon = rules.max_new_tokens
        possible = scores[:1] / (horizon**rules.length_penalty)
        worst = torch.where(group.is_ended, group.ended_scores.min(), OUT)
        is_improvable = self.is_improvable and bool((possible > worst).any())
        is_full = rules.early_stopping is True and bool(group.is_ended.all())
        return replace(
            group,
            num_tokens=length,
            tokens=tokens.index_select(0, order),
            logprobs=seen.index_select(0, order),
            scores=scores,
            parents=tuple(parents.index_select(0, order).tolist()),
            is_improvable=is_improvable,
            is_over=not is_improvable or is_full or bool(ends.all()),
        )

    def _with_ended(self, values: Tensor, tokens: Tensor, logprobs: Tensor, ends: Tensor) -> BeamGroup:
        """With those of the best ``width`` candidates that end, where they are better than others."""
        rules, length = self.rules, self.num_tokens + 1
        ending = ends.clone()
        ending[rules.width :] = False
        scores = values / (length**rules.length_penalty)
        if rules.early_stopping is True and bool(self.is_ended.all()):
            scores = scores + OUT
        if not self.is_improvable:
            scores = scores + OUT
        scores = scores + (~ending).to(torch.float32) * OUT
        merged = torch.cat((self.ended_scores, scores))
        order = torch.topk(merged, rules.width).indices
        lengths = torch.cat((self.lengths, torch.full_like(values, length, dtype=torch.int64)))
        return replace(
            self,
            ended_tokens=torch.cat((self.ended_tokens, tokens)).index_select(0, order),
            ended_logprobs=torch.cat((self.ended_logprobs, logprobs)).index_select(0, order),
            ended_scores=merged.index_select(0, order),
            lengths=lengths.index_select(0, order),
            is_ended=torch.cat((self.is_ended, ending)).index_select(0, order),
        )

    @property
    def last(self) -> list[int]:
        """The last token of each beam under way."""
        found: list[int] = self.tokens[:, self.num_tokens - 1].tolist()
        return found

    def ended(self) -> list[Ended]:
        """The beams that ended, the best first."""
        return [
            Ended(score, tokens[:length], logprobs[:length])
            for score, tokens, logprobs, length, is_ended in zip(
                self.ended_scores.tolist(),
                self.ended_tokens.tolist(),
                self.ended_logprobs.tolist(),
                self.lengths.tolist(),
                self.is_ended.tolist(),
                strict=True,
            )
            if is_ended
        ]

    def under_way(self) -> list[Ended]:
        """The beams that had not ended, the best first, scored as if they did; none once it is over."""
        count = self.num_tokens
        if self.is_over or not count:
            return []
        scores = (self.scores / (count**self.rules.length_penalty)).tolist()
        rows = zip(scores, self.tokens.tolist(), self.logprobs.tolist(), strict=True)
        return [Ended(score, tokens[:count], logprobs[:count]) for score, tokens, logprobs in rows]


@dataclass(frozen=True)
class BeamGroups:
    """The groups of a search between two steps. Each step they choose one after the other; a group pays
    ``diversity`` for a token each time that a group before it has gone on with it in the same step
    (Vijayakumar et al. 2016, arXiv 1610.02424, algorithm 1).

    Attributes:
        groups: in the order of their choice.
        diversity: what a token costs that was chosen before.
        rows: the places ``group * width + beam`` of the beams under way.
        parents: of each of them the place of the beam that it goes on from.
    """

    groups: tuple[BeamGroup, ...]
    diversity: float
    rows: tuple[int, ...]
    parents: tuple[int, ...]

    @classmethod
    def start(cls, rules: BeamRules, device: torch.device, groups: int, diversity: float) -> BeamGroups:
        """All groups at the end of the prompt."""
        count = groups * rules.width
        return cls((BeamGroup.start(rules, device),) * groups, diversity, tuple(range(count)), (0,) * count)

    @property
    def num_tokens(self) -> int:
        """Of each beam under way."""
        return max(group.num_tokens for group in self.groups)

    @property
    def is_over(self) -> bool:
        """Whether no beam is under way."""
        return not self.rows

    def step(self, logprobs: Tensor, raw: Tensor) -> BeamGroups:
        """The groups one token further.

        Args:
            logprobs: ``[len(rows), V]`` after each beam under way, processed.
            raw: the same under the raw model.

        Raises:
            LogitsError: there are NaN or +inf, or nothing finite.
        """
        groups: list[BeamGroup] = []
        rows: list[int] = []
        parents: list[int] = []
        chosen: list[int] = []
        begin = 0
        for number, group in enumerate(self.groups):
            width = group.rules.width
            if group.is_over:
                groups.append(group)
                continue
            own = slice(begin, begin + width)
            begin += width
            scores = logprobs[own]
            if chosen and self.diversity:
                tokens, counts = torch.tensor(chosen, device=scores.device).unique(return_counts=True)
                scores = scores.clone()
                scores[:, tokens] -= self.diversity * counts
            after = group.step(scores, raw[own])
            groups.append(after)
            if not after.is_over:
                first = number * width
                rows += range(first, first + width)
                parents += [first + parent for parent in after.parents]
                if len(self.groups) > 1:
                    chosen += after.last
        return replace(self, groups=tuple(groups), rows=tuple(rows), parents=tuple(parents))

    def last(self) -> list[int]:
        """The last token of each beam under way."""
        return [token for group in self.groups if not group.is_over for token in group.last]

    def token_ids(self) -> Tensor:
        """The tokens of the beams under way, ``[len(rows), num_tokens]``."""
        live = [group.tokens[:, : group.num_tokens] for group in self.groups if not group.is_over]
        return live[0] if len(live) == 1 else torch.cat(live)

    def ended(self) -> list[Ended]:
        """The beams of all groups that ended, the best first."""
        return _by_score([beam for group in self.groups for beam in group.ended()])

    def under_way(self) -> list[Ended]:
        """Those that had not, likewise."""
        return _by_score([beam for group in self.groups for beam in group.under_way()])


def _by_score(beams: list[Ended]) -> list[Ended]:
    return sorted(beams, key=lambda beam: -beam.score)


def _largest(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """What ``torch.topk(values, count)`` gives, ``values`` being ``[n]``.

    Only the ``count + 1`` blocks with the greatest maxima can hold the ``count + 1`` greatest numbers. Where
    two of these are equal, ``torch.topk`` itself has the say.
    """
    size = next((size for size in _BLOCKS if len(values) % size == 0), 0)
    if len(values) < _MANY or not size or len(values) < size * (count + 1):
        return torch.topk(values, count)
    # The columns are the blocks: a maximum over rows is taken many columns at a time.
    blocks = values.view(size, -1)
    chosen = torch.topk(blocks.amax(0), count + 1).indices
    found, at = torch.topk(blocks.index_select(1, chosen).view(-1), count + 1)
    is_told_apart = bool((found[1:] != found[:-1]).all()) and found[-1].item() > _NEARLY_OUT
    if not is_told_apart:
        return torch.topk(values, count)
    places = torch.div(at, count + 1, rounding_mode="floor") * blocks.shape[1] + chosen[at % (count + 1)]
    return found[:count], places[:count]
