"""What a generation did, step by step, as one page that needs nothing but a browser::

trace = hb.Trace()
lm.generate(prompt, trace=trace, max_new_tokens=8)
trace.save("out.html")
"""

from __future__ import annotations

import html
import os
import re
from collections.abc import Mapping
from collections.abc import Sequence as Seq
from dataclasses import MISSING, Field, fields, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hornbeam import _native
from hornbeam.pages import render
from hornbeam.text import pieces_of

if TYPE_CHECKING:
    from hornbeam.results import Piece, Stats

__all__ = ["Trace", "described", "model_facts"]


class Traced(Protocol):
    """What a trace looks at of a request."""

    place: int
    prompt: list[int]
    output: list[int]
    number: int
    options: Any
    engine: Any

    @property
    def stats(self) -> Stats:
        """What it has cost so far."""

    @property
    def finish(self) -> Any:
        """Why it has ended, or None."""


class Trace:
    """Records the steps of a call of :meth:`hornbeam.LM.generate`: every draft tree, what was accepted of
    it, what a step cost. Recording takes microseconds a step; texts are made in :meth:`to_dict`."""

    def __init__(self) -> None:
        self._sequences: dict[int, Traced] = {}
        self._steps: dict[int, list[dict[str, Any]]] = {}
        self._began = datetime.now()

    def __repr__(self) -> str:
        steps = sum(map(len, self._steps.values()))
        tokens = sum(len(sequence.output) for sequence in self._sequences.values())
        return f"<Trace of {len(self._sequences)} texts: {steps} steps, {tokens} tokens>"

    def _repr_html_(self) -> str:
        """The page, in a frame of its own, for notebooks."""
        page = html.escape(self.to_html(), quote=True)
        return f'<iframe srcdoc="{page}" style="width: 100%; height: 40em; border: 0"></iframe>'

    def first(self, sequence: Traced) -> None:
        """Begins a sequence. A trace that is used again forgets the call before.

        Args:
            sequence: the request.
        """
        if sequence.place == 0:
            self._sequences.clear()
            self._began = datetime.now()
        self._sequences[sequence.place] = sequence
        self._steps[sequence.place] = []

    def step(
        self,
        sequence: Traced,
        draft: Any,
        verdict: Any,
        pieces: Seq[Piece],
        kinds: Seq[str],
        rows: int,
        seconds: float,
    ) -> None:
        """Records a sequence's part of a step of decoding: its pass took ``seconds`` over ``rows`` rows.

        Args:
            sequence: the request.
            draft: its draft.
            verdict: what stayed of it.
            pieces: the tokens that were emitted.
            kinds: where each drafted token came from.
            rows: of the pass.
            seconds: of the pass.
        """
        self._steps[sequence.place].append(
            {
                "tokens": draft.tokens,
                "parents": draft.parents,
                "kinds": list(kinds),
                "accepted": verdict.accepted[: len(pieces)],
                "next": verdict.next_token,
                "emitted": len(pieces),
                "rows": rows,
                "seconds": seconds,
            }
        )

    def to_dict(self) -> dict[str, Any]:
        """The recording as plain values: the model, the version and the local time at which the call began;
        per sequence its settings, its prompt, its tokens with where each came from, its steps and its
        seconds; and the cost curve."""
        sequences = [self._told(sequence, self._steps[index]) for index, sequence in self._sequences.items()]
        engine = next((sequence.engine for sequence in self._sequences.values()), None)
        return {
            "model": None if engine is None else model_facts(engine),
            "version": _native.__version__,
            "began": self._began.isoformat(" ", "seconds"),
            "sequences": sequences,
            "curve": [] if engine is None else [list(point) for point in engine.cost_curve.points()],
        }

    def _told(self, sequence: Traced, steps: list[dict[str, Any]]) -> dict[str, Any]:
        tokenizer = sequence.engine.tokenizer
        shown: dict[int, str] = {}

        def text(token: int) -> str:
            if token not in shown:
                shown[token] = f"⟨{token}⟩" if tokenizer is None else tokenizer.decode([token])
            return shown[token]

        output = sequence.output
        pieces = list(map(text, output))
        if tokenizer is not None:
            pieces = pieces_of(tokenizer, output, behind=sequence.prompt)
        tokens: list[dict[str, Any]] = []
        told = []
        if output:
            tokens.append({"text": pieces[0], "kind": "plain", "step": -1})
        for number, step in enumerate(steps):
            begin = len(tokens)
            for place in range(step["emitted"]):
                kind = "bonus" if step["accepted"] else "plain"
                if place < len(step["accepted"]):
                    kind = step["kinds"][step["accepted"][place]]
                tokens.append({"text": pieces[len(tokens)], "kind": kind, "step": number})
            told.append(
                {
                    "after": pieces[begin - 1],
                    "begin": begin,
                    "draft": [
                        {"text": text(token), "parent": parent, "kind": kind}
                        for token, parent, kind in zip(
                            step["tokens"], step["parents"], step["kinds"], strict=True
                        )
                    ],
                    "accepted": step["accepted"],
                    "next": text(step["next"]),
                    "emitted": step["emitted"],
                    "rows": step["rows"],
                    "seconds": step["seconds"],
                }
            )
        prompt = (
            "".join(map(text, sequence.prompt)) if tokenizer is None else tokenizer.decode(sequence.prompt)
        )
        return {
            "prompt": prompt,
            "prompt_tokens": sequence.stats.prompt_tokens,
            "reused_tokens": sequence.stats.reused_tokens,
            "settings": _settings(sequence.options, sequence.number),
            "seconds": dict(sequence.stats.seconds),
            "tokens_per_second": sequence.stats.tokens_per_second,
            "finish": sequence.finish,
            "tokens": tokens,
            "steps": told,
        }

    def to_html(self) -> str:
        """The page: no script, style, font or image comes from elsewhere."""
        return render("trace", self.to_dict())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the page.

        Args:
            path: the file.

        Raises:
            OSError: the file cannot be written.
        """
        Path(path).write_text(self.to_html(), encoding="utf-8")


def model_facts(engine: Any) -> dict[str, str]:
    """What a page calls the model: the end of its path, its class, and how it is held."""
    model = engine.model
    # The folder of a model that a package ships ends with the digest of what it was made from.
    name = re.sub(r"-[0-9a-f]{16}-v\d+$", "", Path(str(model.config.name_or_path)).name)
    return {
        "name": name or type(model).__name__,
        "class": type(model).__name__,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
    }


def _settings(options: Any, number: int) -> dict[str, str]:
    """What a request was asked for, by keyword. Left out is what was left out of the call."""
    warp = options.warp
    found = {"seed": str(options.seed)}
    if number:
        found["sample"] = f"{number + 1} of the same prompt"
    found |= _changed(warp, always=("temperature",))
    if warp.is_greedy:
        found["temperature"] += " (greedy)"
    found["draft"] = described(options.draft)
    if options.draft is not None:
        found |= {"length": described(options.length), "verify": options.rule.name}
    keep = options.keep
    found["keep"] = "everything" if keep is None else f"{keep.name}, budget {keep.budget}"
    found["max_new_tokens"] = str(options.max_new_tokens)
    if options.stop:
        found["stop"] = ", ".join(map(repr, options.stop))
    if options.processor is not None:
        found["logits_processor"] = ", ".join(map(described, options.processor.processors))
    if options.criterion is not None:
        found["stopping_criterion"] = described(options.criterion)
    return found


def _changed(value: Any, always: tuple[str, ...] = ()) -> dict[str, str]:
    """The fields of a dataclass that are not as by default, and those named, as text."""
    return {
        field.name: described(getattr(value, field.name))
        for field in fields(value)
        if field.name in always or (field.repr and not _is_default(field, getattr(value, field.name)))
    }


def _is_default(field: Field[Any], value: Any) -> bool:
    default = field.default if field.default_factory is MISSING else field.default_factory()
    return default is not MISSING and type(value) is type(default) and bool(value == default)


def described(value: Any) -> str:
    """A value as one would write it, without what is as by default and without addresses of objects."""
    if value is None:
        return "none"
    if isinstance(value, (str, int, float, os.PathLike)):
        return f"{value:g}" if isinstance(value, float) else str(value)
    if isinstance(value, Mapping):
        return f"{len(value)} entries"
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(described, value))}]" if len(value) <= 8 else f"{len(value)} entries"
    if is_dataclass(value) and not isinstance(value, type):
        said = ", ".join(f"{name}={text}" for name, text in _changed(value).items())
        return type(value).__name__ + (f"({said})" if said else "")
    return str(getattr(value, "__name__", type(value).__name__))
