"""Draft tokens accepted in a step: the feature head of the default model, rule against rule at equal rows.

Sixty mixed requests (``prompts/mixed.txt``, none of which the head was trained on) are answered by the
model at temperature 1, once. At every sixth token of these answers the head drafts a tree of at most 16
tokens for each case, and the figure is what the rule can be expected to accept of it, given the laws of
both models: the verifier's chance and the text's are summed over (``acceptance.py``), only the drawing of
the tree is not. So all cases stand before the same prefixes, and their ratio has little noise: its
interval comes from 2,000 resamples of the requests.

Each rule has its own best tree. For ``without_replacement`` it is chosen on other requests, those of
``bench_generate``, among several shapes and temperatures of the head; Sequoia's tree is worked out from
the acceptance by rank that was measured there. For ``target_only`` it is whichever of several does best
on the sixty requests themselves, which favours it. The chosen tree under both rules is shown beside them.

No figure here is a time except those of ``cost``, which compares one level of a draft with a plain step
of the target, in alternation. ``accept`` goes on where it was interrupted.

    hornbeam bench spec_accept [--quick] [--only ROW ...]

Rows: accept cost.
"""

from __future__ import annotations

import hashlib
import json
import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import hornbeam as hb
from hornbeam.bench import harness
from hornbeam.bench.acceptance import EXPECTED, accepted_by_rank, children
from hornbeam.bench.workload import CHATS, mixed
from hornbeam.model.loading import cache_folder
from hornbeam.prompt import token_ids
from hornbeam.speculation import Ask, FeatureHead, Outcome
from hornbeam.speculation.draft.head_network import Rows
from hornbeam.speculation.shape import BestFirst, Chain, GumbelTree, Sequoia, StochasticBeam

SIZE = 16
STRIDE = 6
ANSWER_TOKENS = 72
SEED = 17
# Requests that are answered together.
BATCH = 20
# Siblings of which acceptance by rank is measured, and temperatures of the head that are tried.
RANKS = 12
TEMPERATURES = (1.0, 0.8)


@dataclass(frozen=True)
class Case:
    """A tree and the rule that verifies it."""

    shape: Any
    rule: str
    temperature: float = 1.0

    @property
    def drawn_for(self) -> str:
        """The rule that the draft is told: trees are drawn from the head's law whatever verifies them."""
        return "without_replacement" if self.shape.law != "deterministic" else "target_only"


TARGET_ONLY = {
    f"best first of width {width}, depth {depth}, target only": Case(
        BestFirst(size=SIZE, width=width, depth=depth), "target_only"
    )
    for width, depth in ((4, 5), (8, 3), (8, 5), (16, 2))
}
WITHOUT_REPLACEMENT = {
    f"{name}, temperature {temperature}": Case(shape, "without_replacement", temperature)
    for name, shape in {
        "stochastic beam 4 x 4": StochasticBeam(4, 4),
        "stochastic beam 5 x 3": StochasticBeam(5, 3),
        "gumbel tree 4-1-1-1": GumbelTree((4, 1, 1, 1)),
        "gumbel tree 3-2-1": GumbelTree((3, 2, 1)),
    }.items()
    for temperature in TEMPERATURES
}
OTHERS = {
    "chain of 5, chain": Case(Chain(5), "chain"),
    "chain of 5, block": Case(Chain(5), "block"),
}


class Bench:
    """The model and the requests."""

    def __init__(self, quick: bool) -> None:
        self.quick = quick
        self.lm = hb.LM.from_pretrained("smollm2")
        self.budget = 24 if quick else ANSWER_TOKENS

    def accept(self) -> dict[str, Any]:
        """Every case, and the ratio of the two rules' best."""
        others = CHATS[:2] if self.quick else CHATS
        ranks = self.by_rank(others)
        ours = WITHOUT_REPLACEMENT | {
            f"sequoia, temperature {temperature}": Case(
                Sequoia(size=SIZE, depth=6, width=RANKS, acceptance=tuple(own)),
                "without_replacement",
                temperature,
            )
            for temperature, own in ranks.items()
        }
        tried = means(self.measure(others, ours))
        chosen = max(tried, key=lambda name: tried[name])
        same = {"the chosen tree, target only": replace(ours[chosen], rule="target_only")}
        cases = {chosen: ours[chosen]} | same | TARGET_ONLY | OTHERS
        found = self.measure(mixed()[::10] if self.quick else mixed(), cases)
        accepted = means(found)
        rivals = [*TARGET_ONLY, *same, *OTHERS]
        best = max(TARGET_ONLY, key=lambda name: accepted[name])
        return {
            "prompts": len(found[chosen]),
            "prefixes_a_prompt": self.budget // STRIDE,
            "drafted_tokens": SIZE,
            "acceptance_by_rank": {f"temperature {t}": own for t, own in ranks.items()},
            "accepted_on_other_requests": tried,
            "accepted_per_step": accepted,
            "chosen": chosen,
            "best": resampled(found[chosen], found[best]) | {"ours": chosen, "theirs": best},
            "ratios": {name: resampled(found[chosen], found[name]) for name in rivals},
        }

    def by_rank(self, requests: Sequence[str]) -> dict[float, list[float]]:
        """For each temperature the probability that the sibling of each rank is the one accepted."""
        cases = {str(t): Case(GumbelTree((RANKS,)), "without_replacement", t) for t in TEMPERATURES}
        sums = {name: [0.0] * RANKS for name in cases}
        count = 0
        for answer in self.answers(requests):
            for drafts in self.drafts(answer, cases):
                count += 1
                for name, (drafted, target, draft) in drafts.items():
                    own = accepted_by_rank(drafted.tokens, target(-1), draft(-1))
                    sums[name] = [total + value for total, value in zip(sums[name], own, strict=True)]
        # A later sibling cannot be worth more: what looks like it is noise.
        return {t: sorted((total / count for total in sums[str(t)]), reverse=True) for t in TEMPERATURES}

    def measure(self, requests: Sequence[str], cases: dict[str, Case]) -> dict[str, list[float]]:
        """Expected accepted tokens of each case, one mean a request."""
        settings = f"{FeatureHead().path.read_bytes()!r} {self.budget} {STRIDE} {SEED} {cases}"
        digest = hashlib.sha256(settings.encode()).hexdigest()[:12]
        partial = Partial(cache_folder() / "benches" / f"spec_accept-{digest}.json")
        missing = [text for text in requests if text not in partial.found]
        answers = dict(zip(missing, self.answers(missing), strict=True))
        for number, text in enumerate(requests):
            if text not in partial.found:
                sums, count = dict.fromkeys(cases, 0.0), 0
                for drafts in self.drafts(answers[text], cases):
                    count += 1
                    for name, (drafted, target, draft) in drafts.items():
                        rule = EXPECTED[cases[name].rule]
                        sums[name] += rule(drafted.tokens, drafted.parents, target, draft)
                partial.add(text, {name: total / max(count, 1) for name, total in sums.items()})
            shown = ", ".join(f"{value:.2f}" for value in partial.found[text].values())
            print(f"request {number + 1} of {len(requests)}: {shown}", flush=True)
        return {name: [partial.found[text][name] for text in requests] for name in cases}

    def answers(self, requests: Sequence[str]) -> list[tuple[list[int], list[int]]]:
        """The tokens of each request, and those of the model's own answer at temperature 1."""
        prompts = [token_ids(self.lm, [{"role": "user", "content": text}]) for text in requests]
        outputs: list[list[int]] = []
        for begin in range(0, len(prompts), BATCH):
            own = prompts[begin : begin + BATCH]
            outs = self.lm.generate(own, max_new_tokens=self.budget, temperature=1.0, seed=SEED, draft=None)
            outputs += [out.token_ids for out in outs]
        return list(zip(prompts, outputs, strict=True))

    def drafts(
        self, answer: tuple[list[int], list[int]], cases: dict[str, Case]
    ) -> Iterator[dict[str, tuple[Any, Any, Any]]]:
        """At every sixth token of an answer, for each case its tree and the rows of both models."""
        lm, (prompt, output) = self.lm, answer
        lm.clear_cache()
        # Sequoia takes its largest tree where nothing is known of costs: all have the same rows.
        lm.cost_curve = hb.spec.CostCurve()
        tokens = prompt + output
        proposers = {
            name: FeatureHead(shape=case.shape, temperature=case.temperature).open(
                hb.spec.Run(lm.engine, hb.Warp(), SEED, case.drawn_for)
            )
            for name, case in cases.items()
        }
        for proposer in proposers.values():
            proposer.head.tree.clear()
        branch = lm.tree.branch()
        with lm.tree.step([(branch, tokens, None)]) as step:
            taps = next(iter(proposers.values())).hidden_layers
            states = lm.runner.forward(lm.tree, step, logits_rows=[0], hidden=True).hidden
            assert states is not None
            hidden = torch.stack([states[layer] for layer in taps], dim=1)
            step.commit([range(len(tokens))])
        seen = dict.fromkeys(proposers, 0)
        for proposer in proposers.values():
            proposer.start(0, prompt)
        # The pending token is at ``end``: it is certain, and not yet a row.
        for end in range(len(prompt), len(tokens), STRIDE):
            ask = Ask(0, 0, tokens[end], end + 1, SIZE, prompt, tokens[len(prompt) : end + 1])
            drafted = {}
            for name, proposer in proposers.items():
                begin, seen[name] = seen[name], end
                own = list(range(end - begin))
                proposer.observe(
                    [Outcome(0, tokens[begin:end], own, begin < len(prompt), begin, hidden=hidden[begin:end])]
                )
                [drafted[name]] = proposer.propose([ask])
            yield self.with_rows(tokens[: end + 1], drafted)
        for proposer in proposers.values():
            proposer.finish(0)
        branch.release()

    def with_rows(self, tokens: list[int], drafted: dict[str, Any]) -> dict[str, tuple[Any, Any, Any]]:
        """The trees with the target's law after each of their tokens that has children (and of chains all
        but the last): one forward pass for all of them."""
        paths: dict[str, list[tuple[int, ...]]] = {}
        rows: dict[tuple[int, ...], int] = {(): 0}
        request, parents = [tokens[-1]], [-1]
        for name, tree in drafted.items():
            own: list[tuple[int, ...]] = []
            for token, parent in zip(tree.tokens, tree.parents, strict=True):
                own.append((*(own[parent] if parent >= 0 else ()), token))
            paths[name] = own
            for node in sorted(children(tree.parents)):
                if node >= 0 and own[node] not in rows:
                    rows[own[node]] = len(request)
                    request.append(own[node][-1])
                    parents.append(rows[own[node][:-1]])
        branch = self.lm.tree.match(tokens[:-1])
        assert branch.length == len(tokens) - 1, "the answer is not in the tree"
        with self.lm.tree.step([(branch, request, parents)]) as step:
            own_rows = [int(row) for row in step.rows[0]]
            logits = self.lm.runner.forward(self.lm.tree, step, logits_rows=own_rows).logits
        branch.release()
        laws = torch.softmax(logits.double(), dim=-1)

        def target_of(name: str) -> Callable[[int], torch.Tensor]:
            return lambda node: laws[rows[paths[name][node] if node >= 0 else ()]]

        def draft_of(tree: Any) -> Callable[[int], torch.Tensor]:
            return lambda node: torch.softmax(tree.logits[node + 1].double(), dim=-1)

        return {name: (tree, target_of(name), draft_of(tree)) for name, tree in drafted.items()}

    def cost(self) -> dict[str, Any]:
        """One level of a draft, with one node and with four, against a plain step of the target."""
        lm = self.lm
        prompt = token_ids(lm, [{"role": "user", "content": mixed()[0]}])
        alternations = 3 if self.quick else 21
        result: dict[str, Any] = {}
        for nodes in (1, 4):
            seconds = harness.alternate(
                {"step": self.step(prompt), "level": self.level(prompt, nodes)}, alternations, warm_up=2
            )
            compared = harness.ratio(seconds["level"], seconds["step"])
            result[f"steps of the target over levels of {nodes}"] = compared
        return result

    def step(self, prompt: list[int]) -> Callable[[], None]:
        """One row of the target after the prompt."""
        lm = self.lm
        branch = lm.tree.branch()
        with lm.tree.step([(branch, prompt, None)]) as step:
            lm.runner.forward(lm.tree, step, logits_rows=[0])
            step.commit([range(len(prompt))])

        def call() -> None:
            with lm.tree.step([(branch, [1], None)]) as step:
                lm.runner.forward(lm.tree, step)

        return call

    def level(self, prompt: list[int], nodes: int) -> Callable[[], None]:
        """The rows of ``nodes`` siblings of the head after the prompt, and their logits."""
        run = hb.spec.Run(self.lm.engine, hb.Warp(), 0, "coupled")
        head = FeatureHead().open(run).head
        root = head.tree.branch()
        hidden = torch.randn(len(prompt), len(head.taps), head.hidden_size)
        head.forward([Rows(root, prompt, prompt)], head.read(hidden))
        features = torch.randn(nodes, head.hidden_size)

        def call() -> None:
            branches = [root.fork() for _ in range(nodes)]
            head.logits(head.forward([Rows(branch, [1], [1]) for branch in branches], features))
            for branch in branches:
                branch.release(keep=False)

        return call


class Partial:
    """What an interrupted run has measured, in a file that belongs to one head and one set of cases."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.found: dict[str, dict[str, float]] = {}
        if file.is_file():
            self.found = json.loads(file.read_text(encoding="utf-8"))

    def add(self, text: str, figures: dict[str, float]) -> None:
        """Keeps the figures of one request."""
        self.found[text] = figures
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(json.dumps(self.found), encoding="utf-8")


def means(found: dict[str, list[float]]) -> dict[str, float]:
    """Of each case."""
    return {name: statistics.fmean(values) for name, values in found.items()}


def resampled(ours: list[float], theirs: list[float], times: int = 2000) -> dict[str, float]:
    """The ratio of the means and its 95 % interval over resamples of the requests, in pairs."""
    draw = random.Random(0)
    pairs = list(zip(ours, theirs, strict=True))
    ratios = []
    for _ in range(times):
        picked = draw.choices(pairs, k=len(pairs))
        ratios.append(sum(a for a, _ in picked) / max(sum(b for _, b in picked), 1e-9))
    ratios.sort()
    whole = sum(ours) / max(sum(theirs), 1e-9)
    return {"ratio": whole, "low": ratios[times // 40], "high": ratios[-1 - times // 40]}


def run(quick: bool, only: list[str] | None = None) -> dict[str, Any]:
    bench = Bench(quick)
    rows = {"accept": bench.accept, "cost": bench.cost}
    unknown = set(only or ()) - set(rows)
    if unknown:
        raise SystemExit(f"no row {sorted(unknown)}, expected some of {', '.join(rows)}")
    return {name: row() for name, row in rows.items() if only is None or name in only}
