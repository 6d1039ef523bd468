"""Drafts by the target itself, with some of its layers left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hornbeam.cache.tree import Step
from hornbeam.errors import ArgumentError
from hornbeam.model.layers import Computed, Tap
from hornbeam.speculation.branches import Key
from hornbeam.speculation.draft.self_proposer import SelfProposer
from hornbeam.speculation.protocols import Law, Run
from hornbeam.speculation.shape import Chain
from hornbeam.speculation.target_matrices import sample_of
from hornbeam.speculation.tree_building import Node, Shape, TreeBuilder

__all__ = ["LayerSkip"]


@dataclass(frozen=True)
class LayerSkip:
    """The target with a subset of its layers, drafting beside its own branches.

    The draft reads the target's committed keys and values of the layers that it runs. Below the first
    layer left out its rows are what verification would compute: they are computed once, and verification
    enters above them.

    Exactly one of the first three arguments:

    Args:
        exit_layer: run the first ``exit_layer`` layers (LayerSkip, Elhoushi et al. 2024; there the model
            is trained for it).
        skip: leave out so many layers, evenly spaced, never the first nor the last (after Liu et al. 2024,
            "Accelerating inference in large language models with a unified layer skipping strategy": a
            subset that depends on no token, so that rows share it. The formula of the spacing is ours).
        layers: run exactly these.
        shape: which tree it drafts, see :mod:`hornbeam.speculation.shape`.

    Raises:
        ArgumentError: not exactly one subset is given; from ``generate``, it is none of the model's.
    """

    exit_layer: int | None = None
    skip: int | None = None
    layers: tuple[int, ...] | None = None
    shape: Shape = field(default_factory=lambda: Chain(3))

    def __post_init__(self) -> None:
        given = [value for value in (self.exit_layer, self.skip, self.layers) if value is not None]
        if len(given) != 1:
            raise ArgumentError(
                f"exit_layer is {self.exit_layer}, skip is {self.skip}, layers are {self.layers}, "
                "expected exactly one of them"
            )

    @property
    def law(self) -> Law:
        """That of the shape."""
        return self.shape.law

    def kept(self, num_layers: int) -> frozenset[int]:
        """The layers that run, of a model of ``num_layers``.

        Args:
            num_layers: layers of the model.
        """
        if self.layers is not None:
            kept = frozenset(self.layers)
            if not kept or not kept < frozenset(range(num_layers)):
                raise ArgumentError(
                    f"layers are {self.layers}, expected some of 0 to {num_layers - 1}, not all"
                )
            return kept
        if self.exit_layer is not None:
            if not 1 <= self.exit_layer < num_layers:
                raise ArgumentError(f"exit_layer is {self.exit_layer}, expected 1 to {num_layers - 1}")
            return frozenset(range(self.exit_layer))
        inner = num_layers - 2
        if self.skip is None or not 1 <= self.skip <= inner:
            raise ArgumentError(f"skip is {self.skip}, expected 1 to {inner} of {num_layers} layers")
        skipped = {1 + (2 * i + 1) * inner // (2 * self.skip) for i in range(self.skip)}
        return frozenset(range(num_layers)) - skipped

    def open(self, run: Run) -> LayerSkipProposer:
        """Begins a run."""
        return LayerSkipProposer(run, self)


class LayerSkipProposer(SelfProposer):
    """:class:`LayerSkip` at work."""

    def __init__(self, run: Run, settings: LayerSkip) -> None:
        super().__init__(run, settings.shape)
        num_layers = run.target.runner.shape.num_layers
        run.target.runner.decoder_layers()
        self.kept = settings.kept(num_layers)
        #: The first layer left out.
        self.first = min(frozenset(range(num_layers)) - self.kept)
        self._running = self.kept
        # What the layers below the first one left out gave for each node.
        self._computed: dict[Key, Computed] = {}
        self._keys: list[Key] = []

    def begin(self, builder: TreeBuilder) -> None:
        """Forgets the last draft, if it was never verified."""
        self._clear()

    def _clear(self) -> None:
        self.nodes.clear()
        self._computed.clear()

    def expand(self, nodes: Sequence[Node]) -> Tensor:
        """One ragged forward pass over forks of the target's branches."""
        return self._run(nodes, self.kept)

    def _run(self, nodes: Sequence[Node], layers: frozenset[int]) -> Tensor:
        self._running = layers
        self._keys = [self.key(node) for node in nodes]
        try:
            return super().expand(nodes)
        except BaseException:
            self._clear()  # what was drafted so far is of no use
            raise

    def forward(self, step: Step, rows: Sequence[int]) -> Tensor:
        """The layers that run now; what those below the first one left out give is kept."""
        target = self.run.target
        tap = Tap(self.first)
        output = target.forward(
            step, logits_rows=rows, layers=self._running, tap=tap, hidden=self.needs_states
        )
        if output.hidden is not None:
            self.states = output.hidden[-1][torch.as_tensor(rows, device=output.logits.device)]
        computed = tap.computed()
        for key, row in zip(self._keys, rows, strict=True):
            self._computed[key] = computed[torch.tensor([row], device=computed.hidden.device)]
        return output.logits

    def signature(self) -> Tensor:
        """Which layers run, and some of the model's output matrix."""
        return torch.cat([torch.tensor(sorted(self.kept)).float(), sample_of(self.run.target.model)])

    def reuse(self, chosen: Sequence[Sequence[int]]) -> Computed | None:
        """What was computed of the rows ``[pending, *chosen tokens]`` of every ask, after computing what is
        missing of it: the leaves, which the draft itself never runs."""
        try:
            if self.first == 0 or not any(chosen):
                return None
            nodes = [Node(place, token) for place, tokens in enumerate(chosen) for token in [-1, *tokens]]
            left = [node for node in nodes if self.key(node) not in self._computed]
            while left:  # parents before their children
                ready = [
                    node
                    for node, parent in zip(left, self._parents(left), strict=True)
                    if parent is None or self.nodes.holds(self.key(parent))
                ]
                self._run(ready, frozenset(range(self.first)))
                left = [node for node in left if node not in ready]
            return Computed.concatenated([self._computed[self.key(node)] for node in nodes])
        finally:
            self._clear()

    def _parents(self, nodes: Sequence[Node]) -> list[Node | None]:
        return [
            None if node.token < 0 else Node(node.tree, self.growing[node.tree].parents[node.token])
            for node in nodes
        ]

    def finish(self, index: int) -> None:
        """Ends a sequence."""
        super().finish(index)
        self._clear()
