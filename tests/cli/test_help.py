"""What comes without a model: help at any width, the version, and no import that takes long."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

import hornbeam
from hornbeam.bench.run import described
from hornbeam.cli import choices
from hornbeam.cli.commands import app
from hornbeam.recipes import keep as recipes

ROOT = Path(__file__).parent.parent.parent
HEAVY = ("torch", "transformers", "numpy", "pandas", "scipy")
COMMANDS: Any = typer.main.get_command(app)
NAMES = sorted(set(COMMANDS.commands) - {"bench"})


def python(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "FORCE_COLOR"}
    environment |= {"PYTHONPATH": str(ROOT / "python"), **variables}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )


def shown(*arguments: str, columns: int) -> str:
    done = python(f"from hornbeam.cli import main; main({list(arguments)})", COLUMNS=str(columns))
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "code",
    [
        "import hornbeam",
        "import hornbeam; assert hornbeam.__version__",
        "import hornbeam; assert 'LM' in dir(hornbeam)",
        "from hornbeam.errors import ArgumentError",
        "from hornbeam.cli import main; main(['--help'])",
        "from hornbeam.cli import main; main(['--version'])",
        "from hornbeam.cli import main; main(['generate', '--help'])",
        "from hornbeam.cli import main; main(['search', '--help'])",
        "from hornbeam.cli import main; main(['search', 'x', '--recipe', 'none_such'])",
        "from hornbeam.cli import main; main(['search', 'x', '--task', 'none_such'])",
        "from hornbeam.cli import main; main(['search', 'x', '--recipe', 'a_star', '--width', '4'])",
        "from hornbeam.cli import main; main(['keep', '--help'])",
        "from hornbeam.cli import main; main(['attend', '--help'])",
        "from hornbeam.cli import main; main(['attend', '--text', 'x', '--recipe', 'none_such'])",
        "from hornbeam.cli import main; main(['corpus', '--help'])",
        "from hornbeam.cli import main; main(['train-head', '--help'])",
        "from hornbeam.cli import main; main(['train-head', 'none/such', '--out', 'x'])",
        "from hornbeam.cli import main; main(['bench', '--help'])",
        "from hornbeam.cli import main; main(['generate', 'x', '--top-p', '2'])",
        "from hornbeam.cli import main; main(['generate', 'x', '--keep', 'none_such'])",
        "from hornbeam.cli import main; main(['generate', 'x', '--model', 'none/such'])",
    ],
)
def test_nothing_heavy_is_imported(code: str) -> None:
    head, _, last = code.rpartition("; ")
    code = (
        f"import sys\n{head}\ntry:\n    {last}\nexcept SystemExit:\n    pass\n"
        f"print('imported', [name for name in {HEAVY} if name in sys.modules])"
    )
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "imported []"


def test_the_version() -> None:
    assert shown("--version", columns=80) == f"hornbeam {hornbeam.__version__}\n"
    assert hornbeam.__version__ == hornbeam.build_info()["version"]


def test_help_says_what_it_is() -> None:
    text = shown("--help", columns=100)
    assert "Adaptive decoding for PyTorch causal language models." in text
    for name in COMMANDS.commands:
        assert re.search(rf"\b{name}\b", text)


@pytest.mark.parametrize("columns", [40, 60, 79, 80, 120])
@pytest.mark.parametrize("name", NAMES)
def test_no_option_is_cut_off(name: str, columns: int) -> None:
    """Red where Typer's own table is printed at 40 columns (it was tried)."""
    text = shown(name, "--help", columns=columns)
    words = set(re.findall(r"--?[a-z][a-z-]*", text))
    for param in COMMANDS.commands[name].params:
        if param.param_type_name == "option":
            assert set(param.opts) <= words
    assert max(map(len, text.splitlines())) <= columns
    assert "…" not in text


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_the_list_of_benches_fits(columns: int) -> None:
    text = shown("bench", "--help", columns=columns)
    _, _, listed = text.partition("benches:\n")
    assert max(map(len, listed.splitlines())) <= columns
    for name, what in described().items():
        assert re.search(rf"^  {name}\b", text, re.MULTILINE)
        assert " ".join(what.split()) in " ".join(text.split())


def test_a_narrow_help_has_what_a_wide_one_has() -> None:
    def words(text: str) -> set[str]:
        return set(re.findall(r"[a-z]{3,}", text.lower()))

    for arguments in (["--help"], ["generate", "--help"]):
        narrow = words(shown(*arguments, columns=40))
        assert words(shown(*arguments, columns=200)) - {"arguments", "commands"} <= narrow | {"bool"}


def test_the_recipes_that_are_named_are_those_that_there_are() -> None:
    assert list(choices.RECIPES) == sorted(recipes.__all__)
