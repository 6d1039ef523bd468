"""The embeddings and the output matrix of a target, which heads read and are told apart by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hornbeam.errors import UnsupportedModel

if TYPE_CHECKING:
    from hornbeam.speculation.protocols import Target

__all__ = ["SAMPLE_ROWS", "input_matrix", "matrices_of", "output_matrix", "sample_of", "sample_rows"]

# Rows of the target's output matrix that a head's file repeats, to be told from other models.
SAMPLE_ROWS = 16


def output_matrix(model: Any) -> Tensor:
    """The matrix ``[V, H]`` that turns the target's last features into logits.

    Raises:
        UnsupportedModel: the model has none that can be read: its head is wrapped or quantised.
    """
    return _matrix(model.get_output_embeddings(), "output head")


def input_matrix(model: Any) -> Tensor:
    """The matrix ``[V, H]`` of the target's token embeddings.

    Raises:
        UnsupportedModel: as :func:`output_matrix`.
    """
    return _matrix(model.get_input_embeddings(), "input embedding")


def matrices_of(target: Target) -> tuple[Tensor, Tensor]:
    """The matrices of the target that its head uses: :func:`output_matrix` and :func:`input_matrix`.

    Raises:
        UnsupportedModel: one cannot be read, or they are not of one shape, or not over the tokens of the
            logits.
    """
    output, inputs = output_matrix(target.model), input_matrix(target.model)
    if output.shape[0] != target.runner.shape.vocab_size:
        raise UnsupportedModel(
            f"the output matrix has {output.shape[0]} rows, but logits are over "
            f"{target.runner.shape.vocab_size} tokens"
        )
    if inputs.shape != output.shape:
        raise UnsupportedModel(
            f"the model's input embeddings are {list(inputs.shape)} and its output matrix is "
            f"{list(output.shape)}"
        )
    return output, inputs


def _matrix(module: Any, name: str) -> Tensor:
    """The weight of a linear layer or an embedding. Codes are none, whatever class they come in: without
    their scales, which lie elsewhere, they say nothing."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor):
        raise UnsupportedModel(f"the model's {name} ({type(module).__name__}) has no weight")
    weight = weight.detach()
    is_plain = type(weight) is Tensor and weight.is_floating_point() and weight.dtype.itemsize >= 2
    if not is_plain or weight.dim() != 2 or weight.device.type == "meta":
        raise UnsupportedModel(
            f"the weight of the model's {name} is a {type(weight).__name__} of {weight.dtype} "
            f"{list(weight.shape)} on {weight.device}, expected a matrix of floating-point numbers"
        )
    return weight


def sample_rows(vocabulary: int) -> Tensor:
    """Which rows of the output matrix a file repeats: int64 ``[SAMPLE_ROWS]``, evenly spread."""
    return torch.linspace(0, vocabulary - 1, SAMPLE_ROWS).long()


def sample_of(model: Any) -> Tensor:
    """A few numbers of the output matrix, float32 ``[8 * SAMPLE_ROWS]`` on the CPU, to tell models apart."""
    matrix = output_matrix(model)
    return matrix[sample_rows(matrix.shape[0]).to(matrix.device), :8].flatten().float().cpu()
