"""What several benches have in common: requests to the default model, and the two sides that answer them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import hornbeam as hb
from hornbeam.bench import harness
from hornbeam.model import loading

__all__ = [
    "CHATS",
    "Sides",
    "ignoring",
    "mixed",
    "report_to_correct",
    "sources",
    "type_hints",
    "with_renamed_function",
]

CHATS = [
    "What is the capital of France, and what is it known for?",
    "Explain to a child why the sky is blue.",
    "Write a short poem about a tree in winter.",
    "How do I make a simple tomato soup?",
    "Give me three reasons to learn a second language.",
    "What is the difference between a virus and a bacterium?",
    "Write a polite email that declines an invitation to a meeting.",
    "Write a Python function that checks whether a number is prime.",
]


PROMPTS = Path(__file__).parent / "prompts"


def mixed() -> list[str]:
    """Sixty mixed requests, one a line of ``prompts/mixed.txt``."""
    return (PROMPTS / "mixed.txt").read_text(encoding="utf-8").splitlines()


def sources() -> list[str]:
    """Long text to read: the modules of this package, in order of their names. The benches are not among
    them, so that a new bench changes no prompt."""
    package, benches = harness.PACKAGES / "hornbeam", Path(__file__).parent
    files = sorted(file for file in package.rglob("*.py") if not file.is_relative_to(benches))
    return [file.read_text(encoding="utf-8") for file in files]


def type_hints() -> str:
    """The job of ``make demo``: a source file, and the beginning of the same with type hints."""
    return (PROMPTS / "type_hints.txt").read_text(encoding="utf-8").removesuffix("\n")


def with_renamed_function() -> str:
    """The same source file, and the beginning of the same with one function called otherwise."""
    source = (PROMPTS / "readings.txt").read_text(encoding="utf-8")
    renamed = source.replace("celsius_to_fahrenheit", "to_fahrenheit")
    begin = renamed[: renamed.index("def to_fahrenheit")]
    return (
        f"# readings.py\n{source}\n\n# readings.py, celsius_to_fahrenheit renamed to to_fahrenheit\n{begin}"
    )


REPORT = """\
The harbour office recieved the first complaint on a Monday. A fishing boat had lost its anchor near the
northern pier, and the crew beleived that the current had become stronger since the new wall was built. Two
days later a ferry was pushed agaist the same pier, and its captain wrote that he had never seen such a
current in thirty years. The office asked the univercity to measure the water for a month. The measurements
showed that the current near the pier had doubled, but only when the tide was going out and the wind came
from the east. The engineers proposed to open a gap of four metres in the wall, wich would cost less than
moving the pier, and the council agreed to pay for it before the winter storms."""


def report_to_correct() -> str:
    """A report with some misspelt words, and the beginning of the corrected one."""
    begin = "The harbour office received the first complaint on a Monday."
    return f"Report:\n{REPORT}\n\nThe same report with the spelling corrected:\n{begin}"


class Sides:
    """One loaded model, and one way to call each side: hornbeam, and plain transformers."""

    def __init__(self, quick: bool) -> None:
        self.quick = quick
        self.alternations = 3 if quick else harness.ALTERNATIONS
        self.model, self.tokenizer = loading.load(loading.resolve("smollm2"), dtype=torch.float32)
        self.lm = hb.LM(self.model, self.tokenizer)
        self.lm.calibrate()

    def ours(self, prompts: list[list[int]], budget: int, **options: Any) -> list[list[int]]:
        """New token ids of each prompt, with nothing kept from earlier calls."""
        self.lm.clear_cache()
        return [out.token_ids for out in self.lm.generate(prompts, max_new_tokens=budget, **options)]

    def theirs(self, prompts: list[list[int]], budget: int, **options: Any) -> list[list[int]]:
        """The same of plain transformers; several prompts are padded on the left."""
        width = max(map(len, prompts))
        pad = self.model.generation_config.pad_token_id
        ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        output = self.model.generate(
            ids, attention_mask=mask, do_sample=False, max_new_tokens=budget, **options
        )
        return [self.trim(row[width:].tolist()) for row in output]

    def trim(self, tokens: list[int]) -> list[int]:
        """Up to and including the end token: what follows in a batch is padding."""
        end = self.model.generation_config.eos_token_id
        return tokens[: tokens.index(end) + 1] if end in tokens else tokens

    def chat(self, text: str) -> list[int]:
        encoded = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=True
        )
        return list(encoded["input_ids"])

    def raw(self, text: str) -> list[int]:
        """Token ids of a text as it is."""
        return list(self.tokenizer(text)["input_ids"])

    def race(self, ours: Callable[[], Any], theirs: Callable[[], Any]) -> tuple[list[float], list[float]]:
        seconds = harness.alternate(
            {"ours": ignoring(ours), "theirs": ignoring(theirs)}, self.alternations, warm_up=0
        )
        return seconds["ours"], seconds["theirs"]


def ignoring(call: Callable[[], Any]) -> Callable[[], None]:
    """``call`` without its result, which :func:`harness.alternate` would take for seconds."""

    def silent() -> None:
        call()

    return silent
