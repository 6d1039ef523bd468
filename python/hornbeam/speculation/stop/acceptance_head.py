"""Stop where a trained head expects that some drafted token will be refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import linear, rms_norm, silu

from hornbeam._native import CostCurve
from hornbeam.errors import ArgumentError, UnsupportedModel
from hornbeam.speculation.head_file import (
    ACCEPTANCE_HEAD,
    check_tensors,
    counts,
    matrix_size,
    path_of,
    read_head,
)
from hornbeam.speculation.stop.gate import GateStop
from hornbeam.speculation.tree_building import Node, Tree

__all__ = ["FORMAT", "AcceptanceHead", "acceptance"]

FORMAT = "hornbeam-acceptance-head-1"

# The head that comes with the feature head of the default model.
SHIPPED = "smollm2-135m-acceptance.safetensors"


@dataclass(frozen=True)
class AcceptanceHead:
    """Draws on below a node while the probability that some token on the path to it is refused is at most
    ``threshold``: SpecDec++ (Huang, Guo and Wang 2024, arXiv:2405.19715, section 4). A small residual network
    over the draft's hidden state, trained for one draft, predicts whether the token that the state has
    read is accepted if all before it are; the probabilities multiply along a path.

    The head reads tokens that were drawn, and decides whether *others* are drawn below them; a token that
    it expects to be refused is verified all the same. So ratio tests stay exact, with trees of any shape.
    Dropping that token too would bias them. (The authors' code keeps it too, and one token more.)

    We differ in that the state is brought to a narrower width first, and in that the head judges every path
    of a tree; it was trained on chains, so for later siblings its word counts less.

    Args:
        weights: a folder that ``hornbeam train-head`` wrote, or the acceptance head in it; None is the one
            for ``FeatureHead()`` of the default model, which comes with the package.
        threshold: the probability of a refusal above which a path ends; the authors' setting is 0.3.
        min_length: levels that are always drawn; the authors' setting is 2. The shape says how many at most.

    Raises:
        ArgumentError: an argument is out of range; from ``generate``, if the file is no acceptance head or
            the draft draws no tokens.
        UnsupportedModel: from ``generate``, if the head was trained for another draft.
    """

    needs_costs: ClassVar[bool] = False
    is_predictable: ClassVar[bool] = True
    is_gate: ClassVar[bool] = True

    weights: str | PathLike[str] | None = None
    threshold: float = 0.3
    min_length: int = 2

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise ArgumentError(f"threshold is {self.threshold}, expected 0 to 1")
        if self.min_length < 0:
            raise ArgumentError(f"min_length is {self.min_length}, expected at least 0")

    @property
    def path(self) -> Path:
        """The file of the weights."""
        return path_of(self.weights, ACCEPTANCE_HEAD, SHIPPED)

    def start(self, cost: CostCurve | None = None) -> AcceptanceStop:
        """Loads the weights and begins a run; the cost is ignored."""
        return AcceptanceStop(self, load(self.path))


class AcceptanceStop(GateStop):
    """:class:`AcceptanceHead` at work."""

    needs_states: ClassVar[bool] = True

    def __init__(self, settings: AcceptanceHead, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.settings = settings
        self.weights = weights
        # Of every node asked about: the probability that all tokens on its path are accepted.
        self._survival: dict[Node, float] = {}

    def attach(self, proposer: Any) -> None:
        """Holds the draft to the one that the head was trained for."""
        found, expected = proposer.signature(), self.weights["signature"]
        if found.shape != expected.shape or not torch.allclose(found, expected, rtol=2**-6, atol=2**-10):
            raise UnsupportedModel(
                f"the acceptance head {self.settings.path.name} was trained for another draft than this "
                f"{type(proposer).__name__}; expected the draft whose weights it was trained with"
            )

    def begin(self, trees: Sequence[Tree]) -> None:
        """Forgets the drafts before."""
        super().begin(trees)
        self._survival.clear()

    def predict(self, states: Tensor) -> list[float]:
        """For each state the probability that the token it has read is accepted."""
        expected = self.weights["in.weight"].shape[1]
        if states.shape[-1] != expected:
            raise ArgumentError(
                f"the draft's states have {states.shape[-1]} numbers, expected the {expected} that "
                f"{self.settings.path} is for"
            )
        probabilities: list[float] = acceptance(self.weights, states).tolist()
        return probabilities

    def limits(self, trees: Sequence[Tree], nodes: Sequence[Node], states: Tensor | None) -> list[float]:
        """No limit on entropy where the path is likely enough to survive, and nothing elsewhere."""
        assert states is not None, "the draft brings no hidden states"
        found = []
        for node, own in zip(nodes, self.predict(states), strict=True):
            tree = trees[node.tree]
            survival = 1.0  # the pending token is certain
            if node.token >= 0:
                survival = own * self._survival[Node(node.tree, tree.parents[node.token])]
            self._survival[node] = survival
            goes_on = (
                tree.depth(node.token) < self.settings.min_length or 1 - survival <= self.settings.threshold
            )
            found.append(inf if goes_on else -1.0)
        return found


def acceptance(weights: dict[str, Tensor], states: Tensor) -> Tensor:
    """The probabilities ``[n]`` that the tokens last read are accepted, from states ``[n, H]``.

    ``weights``: ``in.weight [W, H]``, blocks ``i.weight [W, W]``, ``i.bias [W]`` for i from 0, and
    ``out.weight [1, W]``, ``out.bias [1]``.
    """
    states = states.to(weights["in.weight"])
    x = linear(rms_norm(states, (states.shape[-1],), eps=1e-5), weights["in.weight"])
    block = 0
    while f"{block}.weight" in weights:
        x = x + silu(linear(x, weights[f"{block}.weight"], weights[f"{block}.bias"]))
        block += 1
    return linear(x, weights["out.weight"], weights["out.bias"]).sigmoid()[:, 0]


def load(path: Path) -> dict[str, Tensor]:
    """Reads and checks a file, in float32; raises ArgumentError where it is no acceptance head."""
    tensors, settings = read_head(path, FORMAT)
    [blocks] = counts(path, settings, "blocks", least=0)
    width = matrix_size(tensors, "out.weight", 1)
    shapes: dict[str, tuple[int | None, ...]] = {"in.weight": (width, None), "signature": (None,)}
    shapes |= {"out.weight": (1, width), "out.bias": (1,)}
    for block in range(blocks):
        shapes |= {f"{block}.weight": (width, width), f"{block}.bias": (width,)}
    check_tensors(path, tensors, shapes)
    return {name: tensor.float() for name, tensor in tensors.items()}
