"""Whether the rows of a forward pass leave each other alone.

Hornbeam computes rows of several positions, drafts and prompts in one pass, and lets only attention bring
them together. A layer that looks at all rows at once breaks that: an activation scale over the whole input,
as dynamic quantisation has, makes a text depend on the drafts and prompts beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hornbeam.errors import UnsupportedModel

__all__ = ["EXPERTS_BOUND", "probe_tokens", "refuse_counted_positions", "refuse_mixed_rows"]

#: What a row's logits may differ by beside other rows, as a share of the largest, where experts take rows in
#: groups whose sizes depend on all of them, or at another place among the rows: products round otherwise.
EXPERTS_BOUND = {torch.float32: 1e-4, torch.float64: 1e-9, torch.bfloat16: 0.05, torch.float16: 0.01}

# The names under which configurations say that there are experts.
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")

# Rows of a pass that looks.
_ROWS = 4

# Where modules come from whose layers are all alike.
_USUAL = ("torch.nn.modules.", "transformers.models.", "transformers.activations", "transformers.modeling_")


def probe_tokens(model: Any) -> tuple[Tensor, Tensor]:
    """The tokens of a pass that looks at a model, and as many others, int64 ``[rows]``."""
    size = model.config.get_text_config().vocab_size
    size = min(size, getattr(model.get_input_embeddings(), "num_embeddings", size))
    tokens = torch.tensor([size * i // (2 * _ROWS) for i in range(2 * _ROWS)])
    return tokens[:_ROWS], tokens[_ROWS:]


def refuse_mixed_rows(model: Any, logits: Tensor, logits_of: Callable[[Tensor], Tensor]) -> None:
    """Raises UnsupportedModel unless rows have the same logits beside different other rows.

    Equal shapes give equal bits, but for mixtures of experts, see :data:`EXPERTS_BOUND`. A scale over all
    rows is the largest row's: with the first row kept and the others exchanged it changes, unless in every
    layer the first is the largest. In a model with modules of other people one layer may be all that mixes,
    so there the first row is exchanged as well.

    Args:
        model: a causal LM.
        logits: ``[rows, V]`` of the first tokens of :func:`probe_tokens`.
        logits_of: gives them for any tokens ``[rows]``, in a pass whose rows do not see each other.
    """
    first, second = probe_tokens(model)
    _compare(model, logits[:1], logits_of(torch.cat([first[:1], second[1:]]))[:1])
    if not all(type(module).__module__.startswith(_USUAL) for module in model.modules()):
        _compare(model, logits[1:], logits_of(torch.cat([second[:1], first[1:]]))[1:])


def refuse_counted_positions(model: Any, logits_of: Callable[[Tensor], Tensor]) -> None:
    """Raises UnsupportedModel where positions are counted along the rows of a pass, as BART's decoder does.

    Rows of one token at one position must have the same logits, but for rounding.

    Args:
        model: a causal LM.
        logits_of: as :func:`refuse_mixed_rows` has it, with all rows at position 0.
    """
    logits = logits_of(probe_tokens(model)[0][1:2].expand(_ROWS)).double()
    difference, largest = float((logits - logits[:1]).abs().max()), float(logits.abs().max())
    if difference > EXPERTS_BOUND.get(next(model.parameters()).dtype, 0.0) * largest:
        raise UnsupportedModel(
            f"{type(model).__name__}: the logits of rows of one token at one position differ by "
            f"{difference:.3g} (the largest is {largest:.3g}): it does not take positions from position_ids, "
            "and the rows of a pass belong to several sequences"
        )


def _compare(model: Any, rows: Tensor, again: Tensor) -> None:
    if torch.equal(_bits(rows), _bits(again)):
        return
    difference = float((rows.double() - again.double()).abs().max())
    largest = float(rows.double().abs().max())
    config = model.config.get_text_config()
    expected = "none"
    if any(getattr(config, name, None) for name in _EXPERTS):
        bound = EXPERTS_BOUND.get(rows.dtype, 0.0)
        if difference <= bound * largest:
            return
        expected = f"at most {bound:g} of the largest for a mixture of experts"
    raise UnsupportedModel(
        f"{type(model).__name__}: a row's logits differ by {difference:.3g} (the largest is {largest:.3g}) "
        f"beside other rows of a pass, expected {expected}: its layers look at all rows at once (as a scale "
        "of activations over a whole input does) or at chance, and hornbeam computes rows of several "
        "positions and prompts in one pass"
    )


def _bits(logits: Tensor) -> Tensor:
    return logits.contiguous().view(torch.uint8)
