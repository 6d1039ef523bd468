"""What ``import hornbeam`` gives: every name, when it is used."""

from __future__ import annotations

import ast
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import hornbeam as hb
from tests.test_layers import LEVELS

PACKAGE = Path(hb.__file__)


@pytest.mark.parametrize("name", hb.__all__)
def test_every_name_is_there(name: str) -> None:
    assert getattr(hb, name) is not None
    assert name in dir(hb)


def test_type_checkers_see_the_same_names() -> None:
    [block] = [
        node for node in ast.parse(PACKAGE.read_text(encoding="utf-8")).body if isinstance(node, ast.If)
    ]
    declared = [
        alias.asname or alias.name for node in ast.walk(block) for alias in getattr(node, "names", ())
    ]
    assert sorted(declared) == sorted(hb.__all__)


def test_names_are_those_of_their_modules() -> None:
    from hornbeam import LM, keep, spec
    from hornbeam.lm import LM as own

    assert hb.LM is LM is own
    assert hb.spec is spec is hb.speculation is sys.modules["hornbeam.speculation"]
    assert hb.keep is keep is sys.modules["hornbeam.keep"]
    assert pickle.loads(pickle.dumps(hb.Warp(0.5))) == hb.Warp(0.5)


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'hornbeam' has no attribute 'Lm'"):
        hb.Lm  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'Lm' from 'hornbeam'"):
        from hornbeam import Lm  # noqa: F401


def test_each_part_can_be_imported_first() -> None:
    """Nobody needs what somebody else happens to import before."""
    parts = sorted(set(LEVELS) - {"__main__", "_native"})
    code = (
        "import sys, importlib, torch\n"
        f"for part in {parts}:\n"
        "    for name in list(sys.modules):\n"
        "        if name.split('.')[0] == 'hornbeam' and name != 'hornbeam._native':\n"
        "            del sys.modules[name]\n"
        "    importlib.import_module('hornbeam.' + part)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent.parent)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
