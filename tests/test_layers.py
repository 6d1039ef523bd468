"""Values lie below, faces on top: no import runs up, those for type checkers included."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "python" / "hornbeam"
#: From the lowest to the highest; parts of one line know nothing of each other.
LAYERS = (
    ("errors", "_native"),
    ("integers", "interrupts", "tensor_file", "text", "warp", "memory", "pages", "results"),
    ("prompt", "trace"),
    ("cuda",),
    ("ops",),
    ("cache",),
    ("model",),
    ("keep", "speculation"),
    ("engine",),
    ("lm", "build"),
    ("recipes", "integrations"),
    ("bench",),
    ("cli",),
    ("__main__",),
)
LEVELS = {part: level for level, parts in enumerate(LAYERS) for part in parts}


def imports(file: Path) -> Iterator[str]:
    """The parts of hornbeam that a file imports."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "hornbeam":
            yield from (alias.name for alias in node.names if alias.name in LEVELS)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hornbeam."):
            yield str(node.module).split(".")[1]
        elif isinstance(node, ast.Import):
            yield from (
                alias.name.split(".")[1] for alias in node.names if alias.name.startswith("hornbeam.")
            )


@pytest.mark.parametrize("file", sorted(ROOT.rglob("*.py")), ids=lambda file: str(file.relative_to(ROOT)))
def test_no_import_runs_up(file: Path) -> None:
    part = file.relative_to(ROOT).parts[0].removesuffix(".py")
    if part == "__init__":
        return
    for other in imports(file):
        assert other == part or LEVELS[other] < LEVELS[part], f"{part} imports {other}"
