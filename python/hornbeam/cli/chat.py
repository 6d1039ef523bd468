"""``hornbeam chat``: a conversation in the terminal."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hornbeam.cli import choices, inputs, opening
from hornbeam.cli.options import Debug, Device, Dtype, Head, Model
from hornbeam.cli.reporting import reported
from hornbeam.cli.screen import Screen
from hornbeam.errors import ArgumentError
from hornbeam.model import loading

if TYPE_CHECKING:
    from hornbeam.cli.conversation import Conversation
    from hornbeam.results import Chunk

__all__ = ["chat"]

HELP = """\
/set NAME VALUE   change a setting (without a value: the model's own); /set shows all
/draft NAME       what drafts: auto, suffix, ngram, recycling, head, none; answers stay the same
/save FILE        write the chat and its settings; /load FILE goes on with them
/read FILE        put a file before the next message
/regen            answer the last message again, with another seed
/clear            begin a new chat
/exit             leave, as exit, quit and Ctrl-D do
!multi … !end     a message of several lines"""


def chat(
    model: Model = "smollm2",
    system: Annotated[str | None, typer.Option("--system", "-s", help="The system message.")] = None,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", "-n", min=1, help="At most so many tokens an answer.")
    ] = 1024,
    seed: Annotated[int, typer.Option(min=0, help="One seed, one text.")] = 0,
    draft: Annotated[
        Literal["auto", "suffix", "ngram", "recycling", "head", "none"],
        typer.Option(
            metavar="NAME",
            help="Where guesses come from: auto, suffix, ngram, recycling, head, none. The text is the same.",
        ),
    ] = "auto",
    head: Head = None,
    load: Annotated[Path | None, typer.Option(help="A chat that /save wrote, to go on with.")] = None,
    dtype: Dtype = "auto",
    device: Device = None,
    debug: Debug = False,
) -> None:
    """Chat with the model.

    What was said stays in the cache, so that a turn reads its own message
    alone. Ctrl-C ends an answer; /help lists what else can be typed.
    """
    with reported(debug):
        if system is not None:
            inputs.require_text(system, "--system")
        choices.check_draft(draft, None, head)
        loading.check(model)
        screen = Screen()
        with screen.waiting("starting"):
            choices.draft(draft, None, head)  # which says what is wrong with the head
            place = choices.device_of(device)
        path = opening.prepared(model, screen)
        tokenizer = opening.open_tokenizer(model, path, screen)
        from hornbeam.cli.conversation import Conversation
        from hornbeam.prompt import has_chat_template

        if not has_chat_template(tokenizer):
            raise ArgumentError(f"{model} has no chat template; hornbeam generate --raw goes on with a text")
        lm = opening.open_lm(model, path, tokenizer, dtype, place, screen)
        conversation = Conversation(lm, head=head)
        given = {"temperature": temperature, "max_new_tokens": max_new_tokens, "seed": seed}
        for name, value in given.items():
            conversation.set(name, str(value))
        if system:
            conversation.set("system", system)
        conversation.draw_from(draft)
        if load is not None:
            conversation.load(load)
        _Prompt(conversation, screen).run()


class _Prompt:
    """Reads what is typed, and does it."""

    def __init__(self, conversation: Conversation, screen: Screen) -> None:
        self.conversation = conversation
        self.screen = screen
        self.before = ""  # a file that the next message follows
        self.is_terminal = sys.stdin.isatty()

    def run(self) -> None:
        """Until the input ends, or somebody leaves."""
        if self.is_terminal:
            import readline  # noqa: F401  # lines can be edited, and earlier ones be had again

            self.screen.note("/help lists what can be typed.")
        while True:
            try:
                line = self._line("> ")
                if line.strip() == "!multi":
                    line = self._lines()
            except (EOFError, KeyboardInterrupt):
                break
            if not line.strip():
                continue
            if line.strip() in ("exit", "quit", "/exit", "/quit", "/bye"):
                break
            try:
                self._do(line)
            except (ArgumentError, OSError) as error:
                self.screen.plain(f"hornbeam: {error}")

    def _line(self, prompt: str) -> str:
        line = input(prompt if self.is_terminal else "")
        inputs.require_text(line, "the message")
        return line

    def _lines(self) -> str:
        lines: list[str] = []
        while (line := self._line(". ")).strip() != "!end":
            lines.append(line)
        return "\n".join(lines)

    def _do(self, line: str) -> None:
        if not line.startswith("/"):
            self._say(f"{self.before}{line}")
            self.before = ""
            return
        name, _, rest = line.partition(" ")
        rest, own = rest.strip(), self.conversation
        if name == "/help":
            self.screen.note(HELP)
        elif name == "/set":
            setting, _, value = rest.partition(" ")
            if setting:
                own.set(setting, value.strip())
            else:
                for known, current in own.settings.items():
                    self.screen.plain(f"{known} {current}")
        elif name == "/draft":
            own.draw_from(rest)
        elif name == "/save":
            own.save(_file(name, rest))
        elif name == "/load":
            own.load(_file(name, rest))
        elif name == "/read":
            self.before = f"{self.before}{inputs.text_of(_file(name, rest))}\n\n"
        elif name == "/regen":
            self._say(own.take_back())
        elif name == "/clear":
            own.clear()
        else:
            raise ArgumentError(f"{name} is no command; /help lists them")

    def _say(self, text: str) -> None:
        def show(chunk: Chunk) -> None:
            self.screen.token_text(chunk.text, chunk.token_ids, chunk.source)

        answer = self.conversation.say(text, show)
        self.screen.end_text()
        stats = answer.stats
        said = f"{stats.emitted} tokens, {stats.tokens_per_second:.1f} tokens/s"
        kept = f"{stats.reused_tokens:,} of {stats.prompt_tokens:,} prompt tokens from the cache"
        self.screen.plain(f"{said}; {stats.accepted} of {stats.drafted} drafted tokens accepted; {kept}")
        if answer.finish_reason == "context":
            self.screen.plain("the model's context is full; /clear begins a new chat")


def _file(command: str, name: str) -> Path:
    if not name:
        raise ArgumentError(f"{command} needs the name of a file")
    return Path(name)
