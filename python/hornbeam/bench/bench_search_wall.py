"""What a tree search costs on the default model, against the same search over transformers.

REBASE of width 16 over few-shot prompts of about 1,000 tokens: 6 steps of 48 tokens, the value is the mean
log-probability. The other sides hold text in between, or keep transformers' cache and reorder it. They are
told which tokens to take, after having drawn their own, so that all search the same tree; their
log-probabilities have to agree with ours.

    hornbeam bench search_wall [--quick] [--only ROW ...]

Rows: cache text drafted outside memory.
"""

from __future__ import annotations

import pkgutil
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import hornbeam as hb
from hornbeam.bench import harness
from hornbeam.bench.workload import Sides

WIDTH, STEPS, STEP_TOKENS, PROMPT_TOKENS, PROMPTS = 16, 6, 48, 1000, 10


@dataclass
class Searched:
    """A search of ours, as another side can follow it.

    Attributes:
        prompt: token ids.
        result: of ours.
    """

    prompt: list[int]
    result: hb.search.SearchResult

    def step(self, node: int) -> tuple[list[int], list[float]]:
        """The tokens of a node's last step, and their log-probabilities."""
        path = self.result.tree.paths[node]
        return path.token_ids[path.step :], path.logprobs[path.step :]


class Bench(Sides):
    """The rows."""

    def __init__(self, quick: bool) -> None:
        super().__init__(quick)
        self.prompts = list(self.few_shot())[: 1 if quick else PROMPTS]
        self.policy = hb.recipes.rebase(width=WIDTH, max_depth=STEPS)

    def few_shot(self) -> Iterator[list[int]]:
        """Prompts of names of the standard library and what they do, of different modules each."""
        shots = list(descriptions())
        begin = 0
        for _ in range(PROMPTS):
            text, end = "", begin
            while len(self.tokenizer(text)["input_ids"]) < PROMPT_TOKENS:
                text, end = f"{text}{shots[end]}\n\n", end + 1
            begin = end + 1
            yield self.tokenizer(f"{text}{shots[end].partition('Description:')[0]}Description:")["input_ids"]

    def search(self, prompt: list[int], seed: int, draft: Any = None) -> Searched:
        """Ours, with nothing kept from earlier calls."""
        self.lm.clear_cache()
        found = self.lm.search(
            prompt,
            recipe=self.policy,
            step=hb.search.StepEnd(delimiter=None, max_tokens=STEP_TOKENS),
            seed=seed,
            draft=draft,
        )
        return Searched(prompt, found)

    def raced(self, theirs: Callable[[Searched], None]) -> dict[str, Any]:
        """Ours and theirs in turn, once a prompt; theirs checks that it searches the same tree."""
        ours, others = [], []
        for seed, prompt in enumerate(self.prompts):
            begin = time.perf_counter()
            searched = self.search(prompt, seed)
            middle = time.perf_counter()
            theirs(searched)
            ours.append(middle - begin)
            others.append(time.perf_counter() - middle)
        return {"prompts": len(self.prompts), "ours_over": harness.ratio(ours, others)}

    def cache(self) -> dict[str, Any]:
        """Against transformers' cache, kept and reordered."""
        return self.raced(self.with_cache)

    def text(self) -> dict[str, Any]:
        """Against ``generate`` on the whole text of each child."""
        return self.raced(self.with_text)

    def drafted(self) -> dict[str, Any]:
        """With the default draft against none."""
        with_draft, without = [], []
        for seed, prompt in enumerate(self.prompts):
            begin = time.perf_counter()
            one = self.search(prompt, seed, draft=hb.spec.Auto())
            middle = time.perf_counter()
            other = self.search(prompt, seed)
            with_draft.append(middle - begin)
            without.append(time.perf_counter() - middle)
            texts = [
                {node: path.token_ids for node, path in searched.result.tree.paths.items()}
                for searched in (one, other)
            ]
            if texts[0] != texts[1]:
                raise SystemExit("a draft changed a path")
        return {"prompts": len(self.prompts), "over_no_draft": harness.ratio(with_draft, without)}

    def outside(self) -> dict[str, Any]:
        """The share of wall time that is spent outside of the model's forward pass."""
        engine: Any = self.lm.engine
        plain, inside = engine.forward, 0.0

        def timed(*arguments: Any, **options: Any) -> Any:
            nonlocal inside
            begin = time.perf_counter()
            try:
                return plain(*arguments, **options)
            finally:
                inside += time.perf_counter() - begin

        shares = []
        engine.forward = timed
        try:
            for seed, prompt in enumerate(self.prompts):
                inside = 0.0
                begin = time.perf_counter()
                self.search(prompt, seed)
                shares.append(1 - inside / (time.perf_counter() - begin))
        finally:
            del engine.forward
        return {"prompts": len(shares), "share_outside": statistics.median(shares), "greatest": max(shares)}

    def memory(self) -> dict[str, Any]:
        """The most bytes of pages at a time, over one cache a branch."""
        shares = []
        for seed, prompt in enumerate(self.prompts):
            searched = self.search(prompt, seed)
            tree = self.lm.engine.tree
            held = -(-len(prompt) // tree.page_tokens) * tree.slab_bytes + searched.result.ledger.kv_bytes
            token = tree.slab_bytes / tree.page_tokens
            shares.append(held / (WIDTH * (len(prompt) + STEPS * STEP_TOKENS) * token))
        return {"prompts": len(shares), "share": statistics.median(shares), "greatest": max(shares)}

    # -- the other sides -------------------------------------------------------------------------------------

    def follow(self, searched: Searched, write: Callable[[list[tuple[int, int]]], list[list[float]]]) -> None:
        """The same search, where ``write`` gives the log-probabilities of children (number, leaf)."""
        search = self.policy.open(0)
        while asked := search.ask():
            children = [(one.first_child + index, one.leaf) for one in asked for index in range(one.children)]
            for (node, _), logprobs in zip(children, write(children), strict=True):
                wanted = searched.step(node)[1]
                if any(abs(a - b) > 1e-2 for a, b in zip(logprobs, wanted, strict=True)):
                    raise SystemExit("the sides do not agree on the log-probabilities of a step")
            for one in asked:
                paths = [searched.result.tree.paths[one.first_child + i] for i in range(one.children)]
                values = [path.value for path in paths if path.value is not None]
                search.tell(one.trial, values, [path.is_finished for path in paths])

    @torch.inference_mode()
    def with_cache(self, searched: Searched) -> None:
        """Keeps the cache of a round's children, and selects from it for the next."""
        from transformers import DynamicCache

        cache = DynamicCache(config=self.model.config)
        prompt = torch.tensor([searched.prompt])
        logits = self.model(prompt, past_key_values=cache, logits_to_keep=1).logits[:, -1]
        rows = {0: 0}

        def write(children: list[tuple[int, int]]) -> list[list[float]]:
            nonlocal logits, rows
            chosen = torch.tensor([rows[leaf] for _, leaf in children])
            cache.batch_select_indices(chosen)
            logits = logits[chosen]
            steps = [searched.step(node)[0] for node, _ in children]
            found: list[list[float]] = [[] for _ in children]
            for place in range(max(map(len, steps))):
                drawn, logprobs = sampled(logits)
                for row, step in enumerate(steps):
                    if place < len(step):
                        drawn[row] = step[place]
                        found[row].append(float(logprobs[row, step[place]]))
                logits = self.model(drawn[:, None], past_key_values=cache).logits[:, -1]
            rows = {node: row for row, (node, _) in enumerate(children)}
            return found

        self.follow(searched, write)

    @torch.inference_mode()
    def with_text(self, searched: Searched) -> None:
        """Generates each child from its whole text."""
        from transformers import LogitsProcessor, LogitsProcessorList

        class Told(LogitsProcessor):
            def __init__(self, steps: list[list[int]]) -> None:
                self.steps, self.place = steps, 0
                self.found: list[list[float]] = [[] for _ in steps]

            def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
                logprobs = scores.log_softmax(-1)
                told = torch.full_like(scores, float("-inf"))
                for row, step in enumerate(self.steps):
                    token = step[min(self.place, len(step) - 1)]
                    told[row, token] = 0.0
                    if self.place < len(step):
                        self.found[row].append(float(logprobs[row, token]))
                self.place += 1
                return told

        def write(children: list[tuple[int, int]]) -> list[list[float]]:
            paths = searched.result.tree.paths
            texts = [searched.prompt + paths[leaf].token_ids for _, leaf in children]
            told = Told([searched.step(node)[0] for node, _ in children])
            width = max(map(len, texts))
            pad = self.model.generation_config.pad_token_id
            ids = torch.tensor([[pad] * (width - len(text)) + text for text in texts])
            mask = torch.tensor([[0] * (width - len(text)) + [1] * len(text) for text in texts])
            self.model.generate(
                ids,
                attention_mask=mask,
                do_sample=True,
                top_k=0,
                top_p=1.0,
                temperature=1.0,
                max_new_tokens=max(map(len, told.steps)),
                logits_processor=LogitsProcessorList([told]),
            )
            return told.found

        self.follow(searched, write)


def sampled(logits: Tensor) -> tuple[Tensor, Tensor]:
    """A draw of each row, and the log-probabilities."""
    logprobs = logits.float().log_softmax(-1)
    return torch.multinomial(logprobs.exp(), 1)[:, 0], logprobs


def descriptions() -> Iterator[str]:
    """One question and answer a documented function of the standard library, module by module."""
    import ast

    folder = Path(pkgutil.__file__).parent
    for name in sorted(sys.stdlib_module_names):
        file = folder / f"{name}.py"
        if not file.is_file():
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and (text := ast.get_docstring(node)):
                yield f"Function: {name}.{node.name}\nDescription: {' '.join(text.split())[:300]}"


def run(quick: bool, only: Iterable[str] | None = None) -> dict[str, Any]:
    bench = Bench(quick)
    rows = ("cache", "text", "drafted", "outside", "memory")
    return harness.run_rows({name: getattr(bench, name) for name in rows}, only)
