"""The verdict on drafts: rules, the caller's processor, and sampling."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from functools import partial
from typing import TYPE_CHECKING

import torch

from hornbeam import ops
from hornbeam.engine.blame import blaming
from hornbeam.speculation.rule import RULES, Rule, Verification
from hornbeam.speculation.step_draft import StepDraft, Verdict

if TYPE_CHECKING:
    from hornbeam.engine.options import Options
    from hornbeam.engine.request import Request

__all__ = ["Verifier", "history", "masking", "process"]


class Verifier:
    """Verifies the drafts of requests that share a warp and a rule. Each has a processor of its own, of one
    kind, or none has.

    Args:
        options: theirs.
        is_ratio_test: whether the laws of drawn tokens are compared.
    """

    def __init__(self, options: Options, is_ratio_test: bool) -> None:
        self.options = options
        self.is_ratio_test = is_ratio_test

    def verify(self, active: Seq[Request], drafts: Seq[StepDraft], logits: torch.Tensor) -> list[Verdict]:
        """Decides from the logits of the rows ``[pending, *tokens]`` of every draft, in their order."""
        if (beams := self.options.beams) is not None:
            return beams.verdicts(active, logits)
        # What was chosen, not drawn, is accepted where a draw from the target says the same.
        rule = self.options.rule
        if rule.compares and not self.is_ratio_test:
            rule = RULES["coupled"]
        if (lockstep := self.options.lockstep) is not None:
            logits = lockstep.scores(active, logits)
            verdicts = self._verify(active, drafts, logits, None, RULES["coupled"])
            lockstep.judge(active, [verdict.next_token for verdict in verdicts])
            return verdicts
        if self.options.processor is not None:
            parts = list(torch.split(logits, [1 + len(draft.tokens) for draft in drafts]))
            if rule.shares_noise:
                return self._follow(active, drafts, parts)
            parts = [process(s, d, part) for s, d, part in zip(active, drafts, parts, strict=True)]
            logits = torch.cat(parts)
        if not self.is_ratio_test:
            return self._verify(active, drafts, logits, None, rule)
        # A sequence without a draft reads no row of one: zeros stand for it, so that one call serves all.
        given = [draft.logits for draft in drafts if draft.logits is not None]
        columns = given[0].shape[1] if given else logits.shape[1]
        blank = torch.zeros(
            (1, columns), dtype=given[0].dtype if given else logits.dtype, device=logits.device
        )
        rows = [blank if draft.logits is None else draft.logits.to(logits.device) for draft in drafts]
        return self._verify(active, drafts, logits, torch.cat(rows), rule)

    def _verify(
        self,
        active: Seq[Request],
        drafts: Seq[StepDraft],
        logits: torch.Tensor,
        draft_logits: torch.Tensor | None,
        rule: Rule,
    ) -> list[Verdict]:
        """One call of the rule a seed."""
        groups = by_seed([request.seed for request in active])
        if len(groups) > 1:
            sizes = [1 + len(draft.tokens) for draft in drafts]
            parts = torch.split(logits, sizes)
            draft_parts = None if draft_logits is None else torch.split(draft_logits, sizes)
            verdicts: dict[int, Verdict] = {}
            for group in groups:
                own = None if draft_parts is None else torch.cat([draft_parts[i] for i in group])
                rows = torch.cat([parts[i] for i in group])
                found = self._verify([active[i] for i in group], [drafts[i] for i in group], rows, own, rule)
                verdicts.update(zip(group, found, strict=True))
            return [verdicts[i] for i in range(len(active))]
        return rule.verify(
            Verification(
                drafts,
                logits,
                draft_logits,
                self.options.warp,
                active[0].seed,
                [request.number for request in active],
                [request.position for request in active],
                history(active, self.options),
            )
        )

    def _follow(
        self, active: Seq[Request], drafts: Seq[StepDraft], parts: Seq[torch.Tensor]
    ) -> list[Verdict]:
        """The coupled rule level by level, so that the processor sees no row but those on the walk."""
        paths: list[list[int]] = [[] for _ in active]
        verdicts: dict[int, Verdict] = {}
        walking = list(range(len(active)))
        while walking:
            rows = []
            for i in walking:
                at = _last(paths[i])
                rows.append(process_row(active[i], drafts[i].path(at), parts[i][at + 1]))
            tokens = self.sample(
                [active[i] for i in walking],
                torch.cat(rows),
                [drafts[i].path(_last(paths[i])) for i in walking],
            )
            still = []
            for i, token in zip(walking, tokens, strict=True):
                child = drafts[i].child(_last(paths[i]), token)
                # Nobody is asked about what follows the end of a text.
                with blaming([active[i]]):
                    is_end = child is None or active[i].ends_with([*drafts[i].path(_last(paths[i])), token])
                if child is None or is_end:
                    verdicts[i] = Verdict(paths[i], token)
                else:
                    paths[i].append(child)
                    still.append(i)
            walking = still
        return [verdicts[i] for i in range(len(active))]

    def sample(
        self, active: Seq[Request], logits: torch.Tensor, paths: Seq[list[int]] | None = None
    ) -> list[int]:
        """The token after each output, or after the tokens of ``paths`` that follow it: one row of ``logits``
        each. One call of :func:`hornbeam.ops.sample_ids` a seed."""
        follow = [[] for _ in active] if paths is None else paths
        tokens: dict[int, int] = {}
        for group in by_seed([request.seed for request in active]):
            own = [active[i] for i in group]
            found = ops.sample_ids(
                logits if len(group) == len(active) else logits[group],
                self.options.warp,
                seed=own[0].seed,
                sequences=torch.tensor([request.number for request in own], dtype=torch.int64),
                positions=torch.tensor([active[i].position + len(follow[i]) for i in group]),
                history=history(own, self.options, [follow[i] for i in group]),
            )
            tokens.update(zip(group, found, strict=True))
        return [tokens[i] for i in range(len(active))]


def by_seed(seeds: Seq[int]) -> list[list[int]]:
    """The places of equal seeds."""
    groups: dict[int, list[int]] = {}
    for place, seed in enumerate(seeds):
        groups.setdefault(seed, []).append(place)
    return list(groups.values())


def _last(path: list[int]) -> int:
    return path[-1] if path else -1


def process_row(sequence: Request, path: list[int], row: torch.Tensor) -> torch.Tensor:
    """Applies the caller's processor to the logits ``[V]`` after the tokens of ``path``: ``[1, V]``."""
    processor = sequence.options.processor
    assert processor is not None

    def ask() -> torch.Tensor:
        ids = [*sequence.before, *sequence.prompt, *sequence.output, *path]
        return processor(torch.tensor([ids], dtype=torch.int64, device=row.device), row[None])

    with blaming([sequence]):
        return ask() if processor.is_pure else sequence.asked.processed(path, ask)


def masking(sequence: Request) -> Callable[[list[int], torch.Tensor], torch.Tensor] | None:
    """What masks the logits ``[V]`` of a draft after the tokens of a path: the caller's processor, unless it
    may keep state, so that it is not asked about guesses."""
    processor = sequence.options.processor
    return partial(process_row, sequence) if processor is not None and processor.is_pure else None


def process(sequence: Request, draft: StepDraft, logits: torch.Tensor) -> torch.Tensor:
    """Applies the caller's processor to the rows ``[pending, *tokens]`` that a walk can visit, each with
    the tokens on its path. A row below a token that the processor rules out stays as it is."""
    rows = [process_row(sequence, [], logits[0])]
    is_reachable = [True]
    for index, (token, parent) in enumerate(zip(draft.tokens, draft.parents, strict=True)):
        above = rows[parent + 1]
        inside = token < above.shape[1]
        is_reachable.append(is_reachable[parent + 1] and inside and float(above[0, token]) > -float("inf"))
        row = logits[index + 1]
        rows.append(process_row(sequence, draft.path(index), row) if is_reachable[-1] else row[None].float())
    return torch.cat(rows)


def history(
    active: Seq[Request], options: Options, paths: Seq[list[int]] | None = None
) -> list[tuple[list[int], list[int]]] | None:
    """Prompts and outputs, those of ``paths`` included, where the warp has penalties that read them."""
    if not options.warp.has_penalties:
        return None
    if paths is None:
        return [(s.prompt, s.output) for s in active]
    return [(s.prompt, s.output + path) for s, path in zip(active, paths, strict=True)]
