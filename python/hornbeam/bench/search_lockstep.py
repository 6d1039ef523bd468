"""Searches on many Countdown problems at once: the package's policies, one batch of rows for all of them.

:meth:`hornbeam.LM.search` writes the children of one prompt at a time, which on a model of a third of a
million parameters is mostly the cost of a step in Python. Here every problem has its search, all are asked,
and what they ask for is written and valued together by plain transformers. Tokens are counted as the ledger
of ``LM.search`` does: those that are written. ``bench_search_countdown`` holds the two to each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from hornbeam.search import Ets, Policy
from hornbeam.tasks.countdown import Problem, folder_of, tokenizer, value_head_file
from hornbeam.tasks.countdown.tokens import END, NEWLINE
from hornbeam.tensor_file import read_tensors

__all__ = ["Moment", "Node", "Run", "Writer", "oracle", "search_all"]

ROWS = 1024


@dataclass
class Node:
    """A path: its tokens behind the prompt, and what it is worth."""

    ids: list[int]
    depth: int
    value: float = 0.0
    is_right: bool | None = None  # None while it has not ended


@dataclass(frozen=True)
class Moment:
    """Where a search stands after a round.

    Attributes:
        tokens: that were written so far.
        paths: that were valued.
        submitted: whether the ended path of greatest value is a solution.
        any_right: whether any ended path is one.
    """

    tokens: int
    paths: int
    submitted: bool
    any_right: bool


@dataclass
class Run:
    """One search under way on one problem."""

    problem: Problem
    search: Any
    nodes: dict[int, Node] = field(default_factory=lambda: {0: Node([], 0)})
    tokens: int = 0
    best: Node | None = None
    moments: list[Moment] = field(default_factory=lambda: [Moment(0, 0, False, False)])

    def take(self, number: int, node: Node) -> None:
        """Notes a child; a path that has ended competes for the answer, the first of equal ones wins."""
        self.nodes[number] = node
        if node.is_right is not None and (self.best is None or node.value > self.best.value):
            self.best = node

    def note(self) -> None:
        """Notes where the search stands."""
        right = any(node.is_right for node in self.nodes.values())
        submitted = self.best is not None and bool(self.best.is_right)
        self.moments.append(Moment(self.tokens, len(self.nodes) - 1, submitted, right))

    def at(self, tokens: float) -> Moment:
        """Where it stood when it had written no more than ``tokens``."""
        return next(moment for moment in reversed(self.moments) if moment.tokens <= tokens)


class Writer:
    """A Countdown model that writes one step behind many prefixes at once, and values what it wrote.

    Args:
        size: of the model.
        traces: whether it is the variant with traces.
    """

    def __init__(self, size: str = "small", traces: bool = False) -> None:
        from transformers import AutoModelForCausalLM

        folder = folder_of(size, traces)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.traces = traces
        self.tokenizer = tokenizer()
        tensors, _ = read_tensors(value_head_file(size, traces), "weights")
        self.head = [
            (tensors[f"layers.{i}.weight"].float(), tensors[f"layers.{i}.bias"].float())
            for i in range(len(tensors) // 2)
        ]
        self.parameters = sum(parameter.numel() for parameter in self.model.parameters())
        self.head_parameters = sum(tensor.numel() for tensor in tensors.values())

    def prompt(self, problem: Problem) -> list[int]:
        """The tokens of a problem's prompt."""
        ids: list[int] = self.tokenizer(problem.prompt)["input_ids"]
        return ids

    @torch.inference_mode()
    def write(
        self,
        prefixes: Sequence[Sequence[int]],
        rows: Sequence[int],
        most: int,
        temperature: float,
        generator: torch.Generator,
    ) -> tuple[list[list[int]], list[float]]:
        """One step behind ``prefixes[row]`` for every row of ``rows``, and the head's value of the whole.

        Prefixes are of one length. A step ends with its line, the end token, or after ``most`` tokens.
        """
        used = sorted(set(rows))
        place = {row: i for i, row in enumerate(used)}
        output = self.model(torch.tensor([list(prefixes[row]) for row in used]), logits_to_keep=1)
        index = torch.tensor([place[row] for row in rows])
        cache, logits = output.past_key_values, output.logits[index, -1]
        for layer in cache.layers:
            layer.keys, layer.values = layer.keys[index], layer.values[index]
        written = torch.zeros(len(rows), 0, dtype=torch.long)
        length = torch.zeros(len(rows), dtype=torch.long)
        hidden = torch.zeros(len(rows), self.model.config.hidden_size)
        going = torch.ones(len(rows), dtype=torch.bool)
        for _ in range(most):
            # The largest of logits with Gumbel noise is a draw from their softmax.
            noise = torch.empty_like(logits).exponential_(generator=generator).log_()
            chosen = (logits / temperature - noise).argmax(-1)
            written = torch.cat([written, chosen[:, None]], 1)
            length += going
            output = self.model.model(chosen[:, None], past_key_values=cache, use_cache=True)
            last = output.last_hidden_state[:, -1]
            hidden = torch.where(going[:, None], last, hidden)
            going &= (chosen != NEWLINE) & (chosen != END)
            if not going.any():
                break
            logits = self.model.lm_head(last)
        steps = [row[:count] for row, count in zip(written.tolist(), length.tolist(), strict=True)]
        return steps, self.value(hidden)

    def value(self, hidden: torch.Tensor) -> list[float]:
        """The value head of hidden states [R, hidden]."""
        for weight, bias in self.head[:-1]:
            hidden = torch.nn.functional.gelu(hidden @ weight.T + bias)
        weight, bias = self.head[-1]
        values: list[float] = torch.sigmoid(hidden @ weight.T + bias)[:, 0].tolist()
        return values


def oracle(problem: Problem, text: str) -> float:
    """Whether a path can still reach the target."""
    return float(problem.is_open(text))


def search_all(
    writer: Writer,
    problems: Sequence[Problem],
    policy: Policy,
    seed: int,
    value: Callable[[Problem, str], float] | None = None,
    most_tokens: int | None = None,
) -> list[Run]:
    """One search a problem, all to their end or as far as the next step of each fits into ``most_tokens``.

    Args:
        writer: writes and values steps.
        problems: in any order.
        policy: of every search.
        seed: of the policy and of sampling.
        value: of a path's text, in place of the value head.
        most_tokens: of each search.
    """
    generator = torch.Generator().manual_seed(seed)
    runs = [Run(problem, policy.open(seed * 1_000_003 + i)) for i, problem in enumerate(problems)]
    prompts = [writer.prompt(problem) for problem in problems]
    while True:
        wanted: dict[int, list[tuple[int, Any, int]]] = {}  # by the length of the prefix
        for i, run in enumerate(runs):
            each = run.problem.step_end(writer.traces).max_tokens
            room = None if most_tokens is None else (most_tokens - run.tokens) // each
            if run.search.is_over or room == 0:
                continue
            for expansion in run.search.ask(room):
                for child in range(expansion.children):
                    length = len(prompts[i]) + len(run.nodes[expansion.leaf].ids)
                    wanted.setdefault(length, []).append((i, expansion, child))
        if not wanted:
            return runs
        told: dict[int, dict[int, tuple[Any, list[Node]]]] = {}
        for asked in wanted.values():
            for begin in range(0, len(asked), ROWS):
                _write(writer, runs, prompts, asked[begin : begin + ROWS], policy, generator, value, told)
        for i, trials in told.items():
            for expansion, nodes in trials.values():
                for child, node in enumerate(nodes):
                    runs[i].take(expansion.first_child + child, node)
                begin = len(runs[i].nodes[expansion.leaf].ids)
                notes = {"steps": [node.ids[begin:] for node in nodes]} if isinstance(policy, Ets) else {}
                runs[i].search.tell(
                    expansion.trial,
                    [node.value for node in nodes],
                    [node.is_right is not None for node in nodes],
                    **notes,
                )
            runs[i].note()


def _write(
    writer: Writer,
    runs: Sequence[Run],
    prompts: Sequence[list[int]],
    asked: Sequence[tuple[int, Any, int]],
    policy: Policy,
    generator: torch.Generator,
    value: Callable[[Problem, str], float] | None,
    told: dict[int, dict[int, tuple[Any, list[Node]]]],
) -> None:
    """Writes and values some children, whose prefixes are of one length, into ``told``."""
    prefixes = [[*prompts[i], *runs[i].nodes[expansion.leaf].ids] for i, expansion, _ in asked]
    places = {(i, expansion.leaf): row for row, (i, expansion, _) in enumerate(asked)}
    rows = [places[i, expansion.leaf] for i, expansion, _ in asked]
    most = max(runs[i].problem.step_end(writer.traces).max_tokens for i, _, _ in asked)
    steps, values = writer.write(prefixes, rows, most, policy.temperature, generator)
    for (i, expansion, _), step, own in zip(asked, steps, values, strict=True):
        run = runs[i]
        leaf = run.nodes[expansion.leaf]
        node = Node([*leaf.ids, *step], leaf.depth + 1, own)
        run.tokens += len(step)
        has_ended = node.depth >= min(run.problem.num_steps, policy.max_depth) or step[-1] == END
        if has_ended or value is not None:
            text = writer.tokenizer.decode(node.ids, skip_special_tokens=True)
            if has_ended:
                node.is_right = run.problem.solves(text)
            if value is not None:
                node.value = value(run.problem, text)
        told.setdefault(i, {}).setdefault(expansion.trial, (expansion, []))[1].append(node)
