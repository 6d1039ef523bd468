"""What a draft source and a stop rule owe the driver. Any class with these methods will do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from torch import Tensor

from hornbeam._native import CostCurve, Signals
from hornbeam.warp import Warp

if TYPE_CHECKING:
    from hornbeam.cache.branch import Branch
    from hornbeam.cache.step import Step
    from hornbeam.cache.tree import PrefixTree
    from hornbeam.model.runner import Output, Runner
    from hornbeam.speculation.rule import Rule
    from hornbeam.speculation.stop.gate import Gate

__all__ = [
    "Ask",
    "BatchDraft",
    "Draft",
    "Drafted",
    "Drafter",
    "HasEngine",
    "Law",
    "Memory",
    "Nodes",
    "Others",
    "Outcome",
    "Proposer",
    "Run",
    "Stop",
    "StopRule",
    "Target",
    "as_ids",
]


Law = Literal["deterministic", "chain", "with_replacement", "without_replacement", "mixed"]
"""How the tokens of a draft came about, given its logits: chosen without chance, or by chance that has
nothing to do with the draft's logits; one draw a node; siblings drawn independently of each other;
siblings drawn without replacement; or some of each, of which no ratio test knows what to make."""

Nodes = int | Sequence[int]
"""Some tokens of a proposal: how many of its first, or which, ascending."""


def as_ids(token_ids: int | Sequence[int]) -> Sequence[int]:
    """Token ids as a sequence of ints: one id, a sequence, or a tensor or array of one dimension."""
    if isinstance(token_ids, int):
        return (token_ids,)
    convert = getattr(token_ids, "tolist", None)
    if convert is None:
        return token_ids
    dtype = str(getattr(token_ids, "dtype", "int64")).removeprefix("torch.")
    if not dtype.startswith(("int", "uint", ">i", ">u")):
        raise TypeError(f"token ids are {dtype}, expected integers")
    return convert()


class Drafted(Protocol):
    """Guessed tokens: a chain, or a tree where there is an attribute ``parents``.

    Two attributes may be left out. ``parents: list[int] | None``: for each token the index of its parent,
    before it, or -1 for a child of the pending token; siblings in the order in which they were drawn.
    ``logits: Tensor | None``, `[1 + len(tokens), V]`: the raw logits that the tokens were drawn from, under
    the run's own warp, the row of the pending token first; rows of tokens without children are not read.
    Without them the draft is taken as chosen, not drawn.
    """

    @property
    def tokens(self) -> list[int]:
        """Token ids, first one next."""

    @property
    def signals(self) -> Signals:
        """One item a token: what the source knows about it."""


class Drafter(Protocol):
    """A draft source at work on one sequence."""

    def extend(self, token_ids: Sequence[int]) -> None:
        """Appends tokens that were committed. Called once for every committed token, in order.

        Args:
            token_ids: the tokens.
        """

    def propose(self, pending: int | Sequence[int], max_length: int) -> Drafted:
        """Guesses at most ``max_length`` tokens after the committed text and ``pending``.

        ``pending`` is what is certain but not committed yet: the token sampled last, or several.
        They are not remembered: :meth:`extend` brings them later.
        """

    # It may offer ``fork() -> Drafter``: a second one at the same place.


class Draft(Protocol):
    """A draft source as a value: its settings. Its drafts are deterministic.

    One that draws on what a caller expects the text to be (``prediction=`` of a request) says so by
    ``takes_prediction = True``: its :meth:`start` is called with the prediction's token ids as a second
    argument then, where there are any.
    """

    def start(self, prompt_ids: Sequence[int]) -> Drafter:
        """Begins a sequence with its prompt as committed text.

        Args:
            prompt_ids: token ids of the prompt.
        """


class Target(Protocol):
    """What a draft source may know of the model that it drafts for. :class:`hornbeam.Engine` is one."""

    model: Any
    runner: Runner
    tree: PrefixTree
    graphs: Any
    cost_curve: CostCurve
    max_positions: int
    recalled: dict[Any, Any]
    """What sources remember from one run to the next."""
    union_memories: dict[str, Any]
    prefill_rows: int

    def forward(self, step: Step, **options: Any) -> Output:
        """A forward pass over an open step of :attr:`tree`; see
        :meth:`hornbeam.model.runner.Runner.forward`."""

    def notice(self) -> None:
        """Lets go of what was computed, if the model has changed since."""


class HasEngine(Protocol):
    """A second model that a source drafts with: :class:`hornbeam.LM` is one."""

    engine: Any


@dataclass(frozen=True)
class Run:
    """What a source may know of the run that it drafts for."""

    target: Target
    """The model that is drafted for."""
    warp: Warp
    """How its logits become the law that tokens are drawn from."""
    seed: int
    """Of the random numbers of asks that name none."""
    rule: str | Rule
    """Of the verification, or its name."""
    gate: Gate | None = None
    """The run's stop rule, if it decides before each draw (:class:`hornbeam.speculation.stop.gate.Gate`):
    for a source whose proposer declares ``takes_gates = True``. With any other source it is refused."""
    weighs_seconds: bool = True
    """Whether the stop rule does: only then may a source that does not pay be left unasked."""


@dataclass(frozen=True)
class Others:
    """What a step computes besides the sequences that are drafted for together."""

    sequences: int = 0
    """Sequences that get a token each, by a row each."""
    rows: int = 0
    """Further rows: their drafts, and parts of prompts."""


@dataclass(frozen=True)
class Ask:
    """One sequence's wish for a draft."""

    index: int
    """The sequence's place in the run."""
    number: int
    """The ``sequence`` of its random numbers."""
    pending: int
    """The token sampled last; it is not committed yet."""
    position: int
    """Logical position of the first token to guess."""
    max_tokens: int
    """Tokens that a path of the draft may have; less than 1 if none are wanted."""
    prompt: Sequence[int] = ()
    """The prompt's tokens. Not to be changed."""
    output: Sequence[int] = ()
    """The tokens emitted so far, the pending one included. Not to be changed."""
    branch: Branch | None = None
    """The target's committed tokens: all but the pending one."""
    seed: int | None = None
    """Of its random numbers; None for that of the run."""
    others: Others = Others()
    """What the step computes besides the asks that come together."""
    processor: Callable[[list[int], Tensor], Tensor] | None = None
    """The caller's logits processor, for a draft that wants to be masked as the target is:
    (drafted tokens after the pending one, logits `[V]` after them) -> logits `[1, V]`. None where there is
    none, and where it may keep state, so that it cannot be asked about guesses."""


@dataclass(frozen=True)
class Outcome:
    """What a forward pass did for one sequence: its rows, and which of them stay."""

    index: int
    """The sequence's place in the run."""
    token_ids: list[int]
    """Tokens of the rows: some of the prompt, or the pending token and its draft."""
    kept: list[int]
    """Indices of the rows that were committed, along one path."""
    is_prompt: bool
    """The rows are some of the prompt's."""
    position: int
    """Logical position of the first row. What the cache held of a prompt is not computed again, and no
    outcome shows it: the position of a sequence's first outcome says how much that was."""
    logits: Tensor | None = None
    """`[rows, V]`, raw, one a row; None for a prompt."""
    hidden: Tensor | None = None
    """`[rows, layers wanted, hidden]`, where the source wants them."""
    parents: Sequence[int] | None = None
    """For each row the row before it on its path, -1 for the first; None for a prompt."""

    @property
    def committed(self) -> list[int]:
        """The tokens that were committed."""
        return [self.token_ids[row] for row in self.kept]


class Memory(Protocol):
    """What a draft source remembers from one run to the next, kept in ``LM.recalled``."""

    outlives_weights: ClassVar[bool]
    """Whether it is of use after the model's weights have changed. If not, it is dropped then."""

    def forget(self) -> None:
        """Lets go of earlier texts."""

    def recover(self) -> None:
        """Ends what an interrupted call has left open."""


class Proposer(Protocol):
    """A draft source at work on all sequences of one run."""

    hidden_layers: tuple[int, ...]
    """Whose hidden states the outcomes bring: 0 is the embedding, ``i`` what layer ``i`` put out."""

    def start(self, index: int, prompt_ids: Sequence[int]) -> None:
        """Begins a sequence. How much of the prompt comes from the cache is not known yet, and not for the
        source to say: see :attr:`Outcome.position`.

        Args:
            index: the sequence's place in the run.
            prompt_ids: token ids of the prompt.
        """

    def propose(self, asks: Sequence[Ask]) -> list[Drafted]:
        """One draft for each ask.

        Args:
            asks: one a sequence that wants a draft.
        """

    def observe(self, outcomes: Sequence[Outcome]) -> None:
        """Records a forward pass. From the first outcome of a sequence on, every committed token comes
        exactly once, in order.

        Args:
            outcomes: one a sequence of the pass.
        """

    def finish(self, index: int) -> None:
        """Ends a sequence; nothing is asked about it any more. Also called if it never started.

        Args:
            index: the sequence's place in the run.
        """


class BatchDraft(Protocol):
    """A draft source as a value, for sources that draft for all sequences at once or read the target's
    own outputs. Sources without ``open`` are driven by :class:`Draft`.

    The proposer of a source that draws at random says so by an attribute ``law: Law``; without it drafts
    are deterministic. Where the run's rule is a ratio test, such a proposer may offer
    ``outline(ask) -> Drafted | None``: the tree that it would draw for the ask if it is sure of it, with
    signals that no draw of this step has shaped and any tokens. A stop rule that may not look at drawn
    tokens then decides on the outline.

    A proposer that runs layers of the target itself may offer ``reuse(chosen) -> Computed | None``: asked
    before the forward pass, with the indices of the tokens verified of each draft, it gives what it
    computed of the rows ``[pending, *chosen]``, one sequence after the other
    (:class:`hornbeam.model.layers.Computed`). Where nothing of it is used ``chosen`` is empty, and what it
    holds is to be let go of. Where it offers ``credit(seconds)`` it is told what the pass took less for it.

    Further it may offer ``fork(index, child) -> bool``, which begins the sequence ``child`` where ``index``
    is and says whether it did; else the child is started with its text. ``arrears(index) -> float`` says how
    many seconds catching up with a sequence's text will take, ``kind_of(index, path) -> str`` where the last
    token of a path in the latest draft came from. ``takes_gates = True`` says that it asks ``run.gate``.

    The draft source itself may have ``lms``, the models that it uses beside the target, and
    ``is_self_paced = True`` if it weighs by itself where it is worth its seconds: any other is weighed by a
    :class:`hornbeam.speculation.Union` where the stop rule weighs seconds. With ``takes_prediction = True``
    ``start`` of its proposers takes a prediction as that of :class:`Draft` does.
    """

    def open(self, run: Run) -> Proposer:
        """Begins a run.

        Args:
            run: what is known of it.
        """


class Stop(Protocol):
    """A stop rule at work in one run."""

    def choose(self, proposals: Sequence[Drafted]) -> Sequence[Nodes]:
        """Which tokens of each proposal the next step verifies: how many of the first ones, or the indices
        of some, closed under parents. None at all is a plain step.

        Args:
            proposals: what the draft source guessed, one a sequence.
        """

    def observe(
        self,
        proposals: Sequence[Drafted],
        chosen: Sequence[Nodes],
        accepted: Sequence[Nodes],
        next_tokens: Sequence[int] | None = None,
    ) -> None:
        """Records the outcome of a step; everything has one item a sequence.

        ``chosen`` is what :meth:`choose` said. ``accepted`` counts kept draft tokens, or of a tree gives
        their indices; ``next_tokens`` are the tokens that the target gave after them. With the latter a
        rule can judge a token that it did *not* verify, so that trying drafts costs nothing; leave them
        out only where they are unknown.

        Args:
            proposals: those that :meth:`choose` was given.
        """


class StopRule(Protocol):
    """A stop rule as a value: its settings.

    A ratio test is exact only if it is settled whether a token is verified before the token is drawn. A
    rule that keeps to this, so that no token's own draw nor a later one decides on it, says so by
    ``is_predictable = True``; one that can decide on the outlines of proposals says ``takes_outlines =
    True``. Without either the rule is refused where a draft is drawn and the verification a ratio test.
    A rule whose :meth:`start` gives a :class:`hornbeam.speculation.stop.gate.Gate`, which is asked before
    each draw, says ``is_gate = True``. One that weighs what a row costs in a step that other requests share
    says ``sees_others = True``: what it starts has a method ``see_others(sequences, rows)`` then, which is
    called before each :meth:`Stop.choose` with what :class:`Others` holds.
    """

    needs_costs: ClassVar[bool]
    """Whether the rule reads the cost curve, so that it is worth calibrating first."""

    def start(self, cost: CostCurve) -> Stop:
        """Begins a run whose steps cost what ``cost`` says, now and as it learns more.

        Args:
            cost: seconds of a forward pass by its rows.
        """
