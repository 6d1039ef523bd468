"""Text under a grammar: the default draft over no draft, one prompt at a time.

Both sides give the same text, under the same grammar: JSON objects of a few fields. ``matcher`` keeps state,
as most matchers do, so that it is asked along accepted text alone and drafts are made without it; ``pure``
masks drafts too; ``xgrammar`` is that package's processor for transformers, where it is installed.

    hornbeam bench grammar [--quick] [--only ROW ...]

Rows: matcher pure xgrammar.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import partial
from importlib.util import find_spec
from typing import Any

from hornbeam.bench import harness
from hornbeam.bench.bench_generate import combined
from hornbeam.bench.json_grammar import Kind, Matcher, PureMatcher, Vocabulary, objects
from hornbeam.bench.workload import Sides, ignoring
from hornbeam.results import Generation

#: What is asked for, and the fields of the answer.
JOBS: list[tuple[str, dict[str, Kind]]] = [
    (
        "Describe Paris as JSON with name, country, is_capital, population and sights.",
        {
            "name": "string",
            "country": "string",
            "is_capital": "boolean",
            "population": "integer",
            "sights": "strings",
        },
    ),
    (
        "Write a recipe for pancakes as JSON with title, servings, ingredients and steps.",
        {"title": "string", "servings": "integer", "ingredients": "strings", "steps": "strings"},
    ),
    (
        "Summarise the novel Moby Dick as JSON with title, author, year, summary and themes.",
        {"title": "string", "author": "string", "year": "integer", "summary": "string", "themes": "strings"},
    ),
]

#: Types of fields as JSON schemas name them.
TYPES: dict[Kind, dict[str, Any]] = {
    "string": {"type": "string"},
    "integer": {"type": "integer"},
    "boolean": {"type": "boolean"},
    "strings": {"type": "array", "items": {"type": "string"}},
}

#: Gives a fresh processor for a prompt of so many tokens and an answer of these fields.
Make = Callable[[int, dict[str, Kind]], Any]


class Bench(Sides):
    """The rows."""

    def __init__(self, quick: bool) -> None:
        super().__init__(quick)
        self.vocabulary = Vocabulary(self.tokenizer, self.lm.runner.shape.vocab_size)

    def matcher(self) -> dict[str, Any]:
        """A matcher that keeps state."""
        return self.raced(lambda _, fields: Matcher(self.vocabulary, objects(fields)))

    def pure(self) -> dict[str, Any]:
        """One whose answer depends on its arguments alone."""
        return self.raced(lambda length, fields: PureMatcher(self.vocabulary, objects(fields), length))

    def xgrammar(self) -> dict[str, Any]:
        """The processor of xgrammar, of its own grammar of JSON schemas."""
        if find_spec("xgrammar") is None:
            return {"skipped": "xgrammar is not installed"}
        import xgrammar
        from xgrammar.contrib.hf import LogitsProcessor

        size = self.lm.runner.shape.vocab_size
        info = xgrammar.TokenizerInfo.from_huggingface(self.tokenizer, vocab_size=size)
        compiler = xgrammar.GrammarCompiler(info)

        def make(length: int, fields: dict[str, Kind]) -> Any:
            properties = {name: TYPES[kind] for name, kind in fields.items()}
            schema = {"type": "object", "properties": properties, "required": list(fields)}
            return LogitsProcessor(compiler.compile_json_schema(json.dumps(schema), any_whitespace=False))

        return self.raced(make)

    def raced(self, make: Make) -> dict[str, Any]:
        """The default draft and none in turn, on each job; the geometric means over jobs."""
        jobs, budget = (JOBS[:1], 24) if self.quick else (JOBS, 64)
        ratios, identical, accepted, tokens = [], 0, 0, 0
        for text, fields in jobs:
            prompt = self.chat(text)
            call = partial(self.answer, prompt, fields, make, budget)
            drafted, plain = call(), call(draft=None)
            identical += drafted.token_ids == plain.token_ids
            accepted, tokens = accepted + drafted.stats.accepted, tokens + len(drafted.token_ids)
            seconds = harness.alternate(
                {"drafted": ignoring(call), "plain": ignoring(partial(call, draft=None))}, self.alternations
            )
            ratios.append(harness.ratio(seconds["drafted"], seconds["plain"]))
        return {
            "jobs": len(jobs),
            "identical": identical,
            "tokens": tokens,
            "accepted": accepted,
            "over_no_draft": combined(ratios),
        }

    def answer(
        self, prompt: list[int], fields: dict[str, Kind], make: Make, budget: int, **options: Any
    ) -> Generation:
        """The text under a fresh processor, with nothing kept from earlier calls."""
        self.lm.clear_cache()
        processor = make(len(prompt), fields)
        return self.lm.generate(prompt, max_new_tokens=budget, logits_processor=processor, **options)


def run(quick: bool = False, only: Iterable[str] | None = None) -> dict[str, Any]:
    """All rows, or those that ``only`` names."""
    bench = Bench(quick)
    rows: dict[str, Callable[[], Any]] = {
        "matcher": bench.matcher,
        "pure": bench.pure,
        "xgrammar": bench.xgrammar,
    }
    return harness.run_rows(rows, only)
