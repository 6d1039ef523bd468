"""The job of the demo is the one that it says it is."""

from __future__ import annotations

import ast
from pathlib import Path

PROMPTS = Path(__file__).parent.parent / "python" / "hornbeam" / "bench" / "prompts"


def test_the_job_is_the_source_and_the_beginning_of_its_edit() -> None:
    source = (PROMPTS / "readings.txt").read_text(encoding="utf-8")
    job = (PROMPTS / "type_hints.txt").read_text(encoding="utf-8")
    begin = f"# readings.py\n{source}\n\n# readings.py, with type hints\n"
    assert job.startswith(begin)
    edited = job.removeprefix(begin)
    # Unparsed without annotations, the edit is the beginning of the source.
    functions = {node.name: node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}
    annotated = [node for node in ast.parse(edited).body if isinstance(node, ast.FunctionDef)]
    assert [node.name for node in annotated] == list(functions)[: len(annotated)]
    assert 0 < len(annotated) < len(functions)
    for node in annotated:
        assert node.returns is not None
        node.returns = None
        for argument in node.args.args:
            assert argument.annotation is not None
            argument.annotation = None
        assert ast.dump(node) == ast.dump(functions[node.name])
