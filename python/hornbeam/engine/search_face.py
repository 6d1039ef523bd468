"""What a model searches with: :meth:`hornbeam.LM.search`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from hornbeam.attend import Recipe as AttendRecipe
from hornbeam.engine.face import EngineFace
from hornbeam.engine.options import DEFAULT_DRAFT
from hornbeam.engine.search_call import search
from hornbeam.keep import Recipe
from hornbeam.search import Budget, Path, Policy, SearchProgress, SearchResult, StepEnd, TokenPolicy
from hornbeam.search.select import best

__all__ = ["SearchFace"]


class SearchFace(EngineFace):
    """An engine that searches."""

    def search(
        self,
        prompt: Any = None,
        *,
        recipe: Policy | TokenPolicy | None = None,
        value: Callable[[Sequence[Path]], Any] | EngineFace | None = None,
        finish: Callable[[Path], Any] | None = None,
        step: StepEnd | None = None,
        budget: Budget | None = None,
        seed: int | None = None,
        draft: Any = DEFAULT_DRAFT,
        select: Callable[[Sequence[Path]], Path | None] = best,
        watch: Callable[[SearchProgress], Any] | None = None,
        keep: Recipe | str | None = None,
        logits_processor: Any = None,
        checkpoint: str | os.PathLike[str] | None = None,
        resume: str | os.PathLike[str] | None = None,
        attend: AttendRecipe | str | None = None,
        prefill: Any = None,
    ) -> SearchResult:
        """Writes several continuations step by step, and goes on from those that are worth it.

        The children of a round are written in one ragged batch, beside other requests; a prefix is read once.

        Args:
            prompt: one prompt, as in :meth:`hornbeam.LM.generate`. With ``resume`` it may be left out, as
                ``recipe``, ``step``, ``budget`` and ``seed`` may: all but ``budget`` have to be the same if
                given.
            recipe: where to search: a policy of :mod:`hornbeam.search`, see :mod:`hornbeam.recipes`.
            value: of a list of :class:`hornbeam.search.Path`, one finite number each, higher is better, see
                :class:`hornbeam.search.Value`; by default the model's own mean log-probability. An
                :class:`hornbeam.LM` is taken as a :class:`hornbeam.search.RewardModel`.
            finish: asked about each path after a step: true, or its answer as text, if it is finished.
            step: where steps end, ``StepEnd()`` by default.
            budget: what may be spent, without limits by default. With ``resume`` it counts what was spent
                before.
            seed: one seed, one search, whatever the draft and other requests; 0 by default.
            draft: as in :meth:`hornbeam.LM.generate`; the paths are the same.
            select: chooses among the finished paths, see :mod:`hornbeam.search.select`.
            watch: is told after each round, and at the end, where the search stands; what it raises
                ends the search as what ``value`` raises does.
            keep: as in :meth:`hornbeam.LM.generate`; a step goes on from what its leaf has kept.
            logits_processor: of a search over steps as in :meth:`hornbeam.LM.generate`, for a processor
                without a state; a search over tokens asks it once a step about all beams: token ids
                ``[beams, n]`` and log-probabilities ``[beams, V]``. Such a search takes no ``value``,
                ``finish``, ``step`` and ``draft``, and draws nothing by ``seed``.
            checkpoint: a folder that the search is written into after each round, so that it can be gone on
                with whatever ends the process.
            resume: such a folder, whose search is gone on with, and written into it. What is code
                (``value``, ``finish``, ``select``) is given again, as is a recipe of your own.
            attend: as in :meth:`hornbeam.LM.generate`. What a step goes on from is held, so that a budget of
                bytes has fewer children, as with ``keep``; goes with no ``checkpoint``.
            prefill: as in :meth:`hornbeam.LM.generate`, of the prompt, which is read once; likewise.

        Returns:
            A :class:`hornbeam.search.SearchResult`, at whatever point the search ended.

        Raises:
            ArgumentError: an argument is not of its kind; ``checkpoint`` holds a search already; or
                ``resume`` holds none, another one, one of another model, or a file that is damaged or of a
                later version.
            BudgetExhausted: the budget was spent before any path was valued.
        """
        return search(
            self.engine,
            prompt,
            recipe=recipe,
            value=value,
            finish=finish,
            step=step,
            budget=budget,
            seed=seed,
            draft=draft,
            select=select,
            watch=watch,
            logits_processor=logits_processor,
            checkpoint=checkpoint,
            resume=resume,
            keep=keep,
            attend=attend,
            prefill=prefill,
        )
