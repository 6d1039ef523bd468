"""Facts hidden in real text, and windows of it for perplexity.

The text is the reference that Python ships for its ``help`` (``pydoc_data.topics``). Several needles share a
context, each with a question of its own that comes after the context was compressed, as kvpress's pipeline
asks: what reads a context once can answer all of them.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from typing import Any

LENGTHS = (1024, 2048, 3072, 4096)
DEPTHS = tuple((2 * step + 1) / 20 for step in range(10))
ROUNDS = 10
NEEDLES = 5  # of a context: every other depth
DIGITS = 4

NEEDLE = "\n\nThe magic number of the {noun} is: {number}.\n\n"
QUESTION = "\n\nWhat is the magic number of the {noun}?"
ANSWER = "The magic number of the {noun} is:"
NOUNS = [
    "apple",
    "river",
    "garden",
    "castle",
    "mountain",
    "kitchen",
    "winter",
    "bridge",
    "market",
    "forest",
    "window",
    "doctor",
    "teacher",
    "pilot",
    "farmer",
]

SCORED_BYTES = 100_000
CONTEXT, CONTINUATION = 1792, 256


@dataclass(frozen=True)
class Item:
    """One context, with what is asked about it: ``answers[i]`` follows ``questions[i]``. All questions have
    equally many tokens, and so have all answers."""

    name: str
    context: list[int]
    questions: list[list[int]]
    answers: list[list[int]]
    depths: tuple[float, ...] = ()


class Items:
    """What is measured: needles by number, and windows of the last 100 KB of the text."""

    def __init__(self, tokenizer: Any) -> None:
        from pydoc_data.topics import topics

        text = "\n\n".join(topics.values()).encode()
        self.digest = hashlib.sha256(text).hexdigest()[:16]
        self.tokenizer = tokenizer
        self.straw = self._tokens(text[:-SCORED_BYTES].decode(errors="ignore"))
        self.scored = self._tokens(text[-SCORED_BYTES:].decode(errors="ignore"))
        mark = "#" * 10
        turns = [{"role": "user", "content": mark}]
        shown = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        self.begin, self.end = shown.split(mark)

    def _tokens(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def needles(self, name: str, length: int, parity: int, count: int = NEEDLES) -> Item:
        """A context of exactly ``length`` tokens; its needles lie at every other depth, from the first or
        from the second on."""
        draw = random.Random(name)
        depths = DEPTHS[parity::2][:count]
        nouns = draw.sample(NOUNS, count)
        numbers = ["".join(draw.choices("0123456789", k=DIGITS)) for _ in nouns]
        pairs = list(zip(nouns, numbers, strict=True))
        parts = [self._tokens(NEEDLE.format(noun=noun, number=number)) for noun, number in pairs]
        head = self._tokens(self.begin)
        room = length - len(head) - sum(map(len, parts))
        start = draw.randrange(len(self.straw) - room)
        straw = self.straw[start : start + room]
        context, last = head, 0
        for depth, part in zip(depths, parts, strict=True):
            context = context + straw[last : int(depth * room)] + part
            last = int(depth * room)
        context = context + straw[last:]
        item = Item(
            name,
            context,
            [
                self._tokens(QUESTION.format(noun=noun) + self.end + ANSWER.format(noun=noun))
                for noun in nouns
            ],
            [self._tokens(" " + number) for number in numbers],
            depths,
        )
        assert len(item.context) == length
        assert len({*map(len, item.questions)}) == len({*map(len, item.answers)}) == 1
        return item

    def grid(self) -> list[list[Item]]:
        """Rounds of one context a length, in an order such that every prefix of whole rounds is balanced
        over lengths, and every even one over depths too."""
        rounds = []
        for number in range(ROUNDS):
            lengths = list(enumerate(LENGTHS))
            random.Random(number).shuffle(lengths)
            rounds.append(
                [
                    self.needles(f"needles-{number}-{length}", length, (number + index) % 2)
                    for index, length in lengths
                ]
            )
        return rounds

    def windows(self, context: int = CONTEXT, continuation: int = CONTINUATION) -> list[Item]:
        """Windows without overlap: each tells the log-probability of its end but for the first token, which
        takes the place of a question."""
        size = context + continuation
        windows = []
        for number, begin in enumerate(range(0, len(self.scored) - size + 1, size)):
            tokens = self.scored[begin : begin + size]
            name = f"window-{number}"
            windows.append(
                Item(name, tokens[:context], [tokens[context : context + 1]], [tokens[context + 1 :]])
            )
        return windows
