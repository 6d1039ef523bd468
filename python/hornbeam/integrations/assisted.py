"""The two parts of transformers' assisted generation: its verification, and a source of candidates.

Both stand where transformers' own stand, and import nothing of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hornbeam import speculation
from hornbeam.errors import ArgumentError, ShapeError
from hornbeam.integrations.chains import check, check_tokens, count_accepted, draw, residual, token_probs

__all__ = ["CandidateGenerator", "speculative_sampling"]


def speculative_sampling(
    candidate_input_ids: Tensor,
    candidate_logits: Tensor,
    candidate_length: int,
    new_logits: Tensor,
    assistant_ensemble_weight: float | bool | None = None,
    *,
    is_done_candidate: bool = False,
) -> tuple[Tensor, Tensor]:
    """Stands in for transformers' ``_speculative_sampling``; exact unless a weight is given.

    Differs in what it reads (one row of probabilities instead of all of them), in a residual that rounding
    emptied (the target decides) and in a token without target mass, which never passes.

    Args:
        candidate_input_ids: int64 ``[1, length]``, the candidates last.
        candidate_logits: ``[1, K, V]``, processed, what the candidates were drawn from.
        candidate_length: ``K``, at least 1.
        new_logits: ``[1, K + 1, V]``, the target's, processed.
        assistant_ensemble_weight: in (0, 1): **lossy**, verifies against ``w p + (1 - w) q`` (DIVERSE). A
            bool is taken for ``is_done_candidate``, which older releases have in this place.
        is_done_candidate: whether the last candidate ends the sequence: then no token follows it.

    Returns:
        ``valid_tokens`` int64 ``[1, n + 1]`` and ``n_matches``, a tensor of no dimension. Draws come from
        torch's global generator.

    Raises:
        ShapeError: shapes that do not fit.
        ArgumentError: a candidate outside of the vocabulary, or a weight outside of (0, 1).
    """
    weight: float | None = None
    if isinstance(assistant_ensemble_weight, bool):
        is_done_candidate = assistant_ensemble_weight
    elif assistant_ensemble_weight is not None:
        weight = float(assistant_ensemble_weight)
        if not 0 < weight < 1:
            raise ArgumentError(f"assistant_ensemble_weight is {weight}, expected between 0 and 1")
    check("candidate_input_ids", candidate_input_ids, (1, None))
    length = candidate_length
    if not 1 <= length <= candidate_input_ids.shape[1]:
        raise ShapeError(f"candidate_length is {length}, expected 1 to {candidate_input_ids.shape[1]}")
    check("candidate_logits", candidate_logits, (1, length, None))
    check("new_logits", new_logits, (1, length + 1, candidate_logits.shape[2]))
    tokens = candidate_input_ids[:, -length:]
    check_tokens("candidate_input_ids", tokens, new_logits.shape[2])

    p, q = token_probs(new_logits[:, :length], tokens), token_probs(candidate_logits, tokens)
    aim = p if weight is None else weight * p + (1 - weight) * q
    matches = count_accepted(aim, q, torch.rand_like(p))[0]
    count = int(matches)
    if is_done_candidate and count == length:
        return tokens[:, :length], matches - 1
    law = new_logits[0, count].float().softmax(-1)
    if count < length:
        law = residual(law, candidate_logits[0, count].float().softmax(-1))
    return torch.cat([tokens[:, :count], draw(law[None])[None]], dim=1), matches


class CandidateGenerator:
    """transformers' protocol of that name, over any of hornbeam's sources of text.

    A chosen draft: transformers gets no logits with it and compares what it samples with the candidates,
    which is exact. One object serves one sequence.

    Args:
        draft: the source, for example :class:`hornbeam.speculation.Suffix`.
        max_length: tokens that the sequence may have in all, the prompt included.
        num_assistant_tokens: most candidates at a time.
        eos_token_id: candidates end before the first of these; an id, several, or a tensor of them.
    """

    requires_model_outputs = False

    def __init__(
        self,
        draft: Any = None,
        *,
        max_length: int,
        num_assistant_tokens: int = 10,
        eos_token_id: int | Sequence[int] | Tensor | None = None,
    ) -> None:
        for name, value in (("max_length", max_length), ("num_assistant_tokens", num_assistant_tokens)):
            if value < 1:
                raise ArgumentError(f"{name} is {value}, expected at least 1")
        self.draft = speculation.Suffix() if draft is None else draft
        self.max_length = max_length
        self.num_assistant_tokens = num_assistant_tokens
        self.eos = _ids(eos_token_id)
        self._committed: list[int] = []
        self._drafter: Any = None

    def get_candidates(self, input_ids: Tensor, **_: Any) -> tuple[Tensor, None]:
        """``input_ids [1, length]`` with candidates after them, and no logits. An empty text has none.

        Raises:
            ShapeError: more than one sequence.
        """
        check("input_ids", input_ids, (1, None))
        text = input_ids[0].tolist()
        room = min(self.num_assistant_tokens, self.max_length - len(text) - 1)
        if room < 1 or not text:
            return input_ids, None
        known = len(self._committed)
        if self._drafter is None or text[:known] != self._committed or len(text) <= known:
            self._drafter = self.draft.start(text[:-1])
        else:
            self._drafter.extend(text[known:-1])
        self._committed = text[:-1]
        tokens = list(self._drafter.propose(text[-1], room).tokens)
        ends = [place for place, token in enumerate(tokens) if token in self.eos]
        tokens = tokens[: ends[0]] if ends else tokens
        return torch.cat([input_ids, input_ids.new_tensor([tokens], dtype=input_ids.dtype)], dim=1), None

    def update_candidate_strategy(self, input_ids: Tensor, scores: Tensor, num_matches: int) -> None:
        """Does nothing with ``input_ids``, ``scores`` and ``num_matches``: the next call brings the text that
        was kept."""


def _ids(given: int | Sequence[int] | Tensor | None) -> set[int]:
    """Token ids, of what generation configs and their tensors hold."""
    if isinstance(given, Tensor):
        given = given.flatten().tolist()
    if given is None or isinstance(given, int):
        given = [] if given is None else [given]
    if bad := [token for token in given if isinstance(token, bool) or not isinstance(token, int)]:
        raise ArgumentError(f"eos_token_id holds {bad[0]!r}, expected token ids")
    return set(given)
