"""What training a head needs to know of the model that the head is for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import rms_norm

from hornbeam.errors import UnsupportedModel
from hornbeam.speculation.target_matrices import matrices_of

if TYPE_CHECKING:
    from hornbeam.lm import LM

__all__ = ["HeadTarget"]

# Where a configuration does not say it. The head's positions are its own: any base will do.
EPS, ROPE_THETA = 1e-6, 10000.0
# By what two ways to compute a value may differ, in float32 and in types of two bytes.
FINE, COARSE = 2**-12, 2**-5


@dataclass(frozen=True)
class HeadTarget:
    """The parts of a model that a head is made of, in float32 on the CPU.

    Attributes:
        embedding: of the input tokens, ``[V, H]``.
        output: the matrix that makes logits of the last hidden states, ``[V, H]``.
        scale: what the final norm multiplies by, ``[H]``.
        layer: the last decoder layer.
        eps: of the norms.
        rope_theta: base of the rotary positions.
        heads, kv_heads, head_dim: of the head's attention, which are the model's.
        num_layers: of the model.
        tolerance: by what share its own logits may differ from those of another way to compute them.
    """

    embedding: Tensor
    output: Tensor
    scale: Tensor
    layer: Any
    eps: float
    rope_theta: float
    heads: int
    kv_heads: int
    head_dim: int
    num_layers: int
    tolerance: float

    @classmethod
    def of(cls, lm: LM) -> HeadTarget:
        """Those of a model.

        Args:
            lm: the model.

        Raises:
            UnsupportedModel: the architecture has no support for feature heads; the message names the reason.
        """
        model, shape, name = lm.model, lm.engine.runner.shape, type(lm.model).__name__
        try:
            output, embedding = matrices_of(lm.engine)
        except UnsupportedModel as error:
            raise UnsupportedModel(f"a feature head cannot be trained for {name}: {error}") from error
        decoder = model.get_decoder()
        norm, layers = getattr(decoder, "norm", None), getattr(decoder, "layers", None)
        if not isinstance(layers, torch.nn.ModuleList) or norm is None:
            raise UnsupportedModel(
                f"a feature head cannot be trained for {name}: its decoder ({type(decoder).__name__}) has no "
                "layers and norm of these names, as Llama has them"
            )
        scale = scale_of(norm, output.shape[1])
        if scale is None:
            raise UnsupportedModel(
                f"a feature head cannot be trained for {name}: its final norm ({type(norm).__name__}) is no "
                "RMS norm, which the head ends with"
            )
        config = model.config.get_text_config()
        rope = getattr(config, "rope_parameters", None) or {}
        theta = rope.get("rope_theta", ROPE_THETA)
        return cls(
            embedding.float().cpu(),
            output.float().cpu(),
            scale,
            layers[-1],
            float(getattr(config, "rms_norm_eps", EPS)),
            float(theta),
            shape.num_heads,
            shape.num_kv_heads,
            shape.head_dim,
            shape.num_layers,
            FINE if shape.dtype.itemsize >= 4 else COARSE,
        )

    @property
    def hidden_size(self) -> int:
        """Numbers of a hidden state."""
        return self.output.shape[1]

    @property
    def vocab_size(self) -> int:
        """Tokens of the model's vocabulary."""
        return self.output.shape[0]

    @property
    def inner(self) -> int:
        """Width of the feed-forward part of the last layer; four times the hidden size where it has none of
        the usual kind."""
        gate = matrix_of(self.layer, "mlp", "gate_proj")
        return 4 * self.hidden_size if gate is None else gate.shape[0]

    @property
    def taps(self) -> tuple[int, ...]:
        """The layers whose states a head reads, where nothing else is said."""
        shares = (0.1, 0.5, 0.9, 1.0)
        return tuple(sorted({max(round(share * self.num_layers), 1) for share in shares}))

    def check_logits(self, hidden: Tensor, logits: Tensor) -> None:
        """Compares logits ``[n, V]`` of the model with those that the head takes for its own, the product of
        the last hidden states ``[n, H]`` and the output matrix.

        Raises:
            UnsupportedModel: the model makes its logits in another way.
        """
        own, theirs = hidden.float().cpu() @ self.output.T, logits.float().cpu()
        if not float((own - theirs).abs().max()) <= self.tolerance * float(theirs.abs().max()):
            raise UnsupportedModel(
                "a feature head cannot be trained for this model: its logits are not the product of its last "
                "hidden states and its output matrix (a soft cap, a scale or a bias?)"
            )


def scale_of(norm: Any, size: int) -> Tensor | None:
    """What an RMS norm multiplies by, float32 ``[size]``; None if it is of another kind.

    Args:
        norm: a module.
        size: numbers that it takes.
    """
    weight = getattr(norm, "weight", None)
    if not isinstance(weight, Tensor) or weight.shape != (size,):
        return None
    signs = torch.randn(2, size, generator=torch.Generator().manual_seed(0))
    # Far from zero, so that no epsilon counts.
    rows = 100 * torch.cat([torch.ones(1, size), signs])
    with torch.no_grad():
        found = norm(rows.to(weight)).float().cpu()
    scale = found[0]
    expected = rms_norm(rows, (size,), scale, 0.0)
    return scale if torch.allclose(found, expected, rtol=COARSE, atol=COARSE) else None


def matrix_of(layer: Any, block: str, name: str) -> Tensor | None:
    """The weight of a linear part of a layer, such as ``mlp.gate_proj``, in float32; None where it has none,
    or one that is quantised."""
    part = getattr(getattr(layer, block, None), name, None)
    weight = getattr(part, "weight", None)
    if type(part) is not torch.nn.Linear or not isinstance(weight, Tensor) or weight.dim() != 2:
        return None
    return weight.detach().float().cpu()
