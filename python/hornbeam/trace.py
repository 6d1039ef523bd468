"""What a generation did, step by step, as one page that needs nothing but a browser::

trace = hb.Trace()
lm.generate(prompt, trace=trace, max_new_tokens=8)
trace.save("out.html")
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence as Seq
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from hornbeam.results import Piece

__all__ = ["Trace"]


class Traced(Protocol):
    """What a trace looks at of a request."""

    place: int
    prompt: list[int]
    output: list[int]
    engine: Any

    @property
    def finish(self) -> Any:
        """Why it has ended, or None."""


class Trace:
    """Records the steps of a call of :meth:`hornbeam.LM.generate`: every draft tree, what was accepted of
    it, what a step cost. Recording takes microseconds a step; texts are made in :meth:`to_dict`."""

    def __init__(self) -> None:
        self._sequences: dict[int, Traced] = {}
        self._steps: dict[int, list[dict[str, Any]]] = {}

    def first(self, sequence: Traced) -> None:
        """Begins a sequence. A trace that is used again forgets the call before.

        Args:
            sequence: the request.
        """
        if sequence.place == 0:
            self._sequences.clear()
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
        """The recording as plain values: per sequence its prompt, its tokens with where each came from, and
        its steps; and the cost curve."""
        sequences = [self._told(sequence, self._steps[index]) for index, sequence in self._sequences.items()]
        engine = next((sequence.engine for sequence in self._sequences.values()), None)
        curve = [] if engine is None else [list(point) for point in engine.cost_curve.points()]
        return {"sequences": sequences, "curve": curve}

    def _told(self, sequence: Traced, steps: list[dict[str, Any]]) -> dict[str, Any]:
        tokenizer = sequence.engine.tokenizer
        shown: dict[int, str] = {}

        def text(token: int) -> str:
            if token not in shown:
                shown[token] = f"⟨{token}⟩" if tokenizer is None else tokenizer.decode([token])
            return shown[token]

        output = sequence.output
        pieces = [text(token) for token in output] if tokenizer is None else _pieces(tokenizer, output)
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
        return {"prompt": prompt, "finish": sequence.finish, "tokens": tokens, "steps": told}

    def to_html(self) -> str:
        """The page: no script, style, font or image comes from elsewhere."""
        page = resources.files("hornbeam").joinpath("trace.html").read_text(encoding="utf-8")
        # Within a script element only "</script" and "<!--" end it or change its meaning.
        data = json.dumps(self.to_dict(), ensure_ascii=False).replace("<", "\\u003c")
        return page.replace("__TRACE__", data)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the page.

        Args:
            path: the file.

        Raises:
            OSError: the file cannot be written.
        """
        Path(path).write_text(self.to_html(), encoding="utf-8")


def _pieces(tokenizer: Any, tokens: list[int]) -> list[str]:
    """The text that each token adds. A character that several tokens spell comes with its last one. Eight
    tokens before it settle how a token is written."""
    pieces, held = [], 0
    for end in range(1, len(tokens) + 1):
        begin = max(0, end - 1 - held - 8)
        before = tokenizer.decode(tokens[begin : end - 1 - held])
        after = tokenizer.decode(tokens[begin:end])
        if after.endswith("\ufffd") and held < 4 and end < len(tokens):
            pieces.append("")
            held += 1
        else:
            pieces.append(after[len(before) :])
            held = 0
    return pieces
