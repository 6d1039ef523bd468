"""A method is added by adding its file: no file of the package that exists is edited."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hornbeam import keep, search, speculation
from hornbeam.methods import export, methods_in

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "python" / "hornbeam"

#: One toy of each family, each in a file of its own.
FILES = {
    "keep/score/toy_score.py": """
from hornbeam.keep.score.base import Score

class ToyScore(Score):
    def scores(self, keys, values, queries, scale):
        return values.abs().amax(-1).transpose(0, 1)
""",
    "keep/split/toy_split.py": """
import torch
from hornbeam.keep.split.base import Split

class ToySplit(Split):
    def budgets(self, scores, total, protected=(0, 0, 0)):
        layers, heads, _ = scores.shape
        return torch.full((layers, heads), total // (layers * heads))
""",
    "keep/reduce/toy_reduction.py": """
from hornbeam.keep.reduce.base import Reduce, Reduced

class ToyReduction(Reduce):
    def reduce(self, keys, values, scores, kept):
        return Reduced(kept, keys[kept], values[kept] * 0.5)
""",
    "keep/when/toy_moment.py": """
from hornbeam.keep.when.base import When

class ToyMoment(When):
    def due(self, moment):
        return moment.prefilled or moment.tokens_since >= 3
""",
    "speculation/draft/toy_draft.py": """
from types import SimpleNamespace
from hornbeam._native import Signals

class ToyDraft:
    def start(self, prompt_ids):
        return ToyDrafter()

class ToyDrafter:
    def extend(self, token_ids):
        pass

    def propose(self, pending, max_length):
        tokens = [pending] * min(3, max_length)
        return SimpleNamespace(tokens=tokens, signals=Signals([0.5] * len(tokens)))
""",
    "speculation/shape/toy_shape.py": """
from hornbeam.speculation.shape.levels import constant_outline, grow_levels

class ToyShape:
    law = "without_replacement"

    def grow(self, builder):
        grow_levels(builder, builder.distinct, (3, 1))

    def outline(self, record, max_tokens):
        return constant_outline((3, 1), max_tokens)
""",
    "speculation/stop/toy_stop.py": """
from hornbeam.speculation.stop.base import LearnsNothing

class ToyStop:
    needs_costs = False
    is_predictable = True

    def start(self, cost):
        return ToyStopAtWork()

class ToyStopAtWork(LearnsNothing):
    def choose(self, proposals):
        return [min(2, len(p.tokens)) for p in proposals]
""",
    "speculation/rule/toy_rule.py": """
from hornbeam.speculation.rule.base import Rule

class ToyRule(Rule):
    name = "toy"

    def walk(self, draft):
        return [], draft.draw(draft.target(-1))
""",
    "search/policy/toy_policy.py": """
from dataclasses import dataclass
from hornbeam.search.policy.base import Expansion, Policy, Search

@dataclass(frozen=True)
class ToyPolicy(Policy):
    name = "toy"

    def open(self, seed):
        return ToySearch()

class ToySearch(Search):
    # The prompt, then the first child alone.
    told = asked = 0

    def ask(self, most=None):
        if self.asked > self.told or self.is_over:
            return []
        self.asked += 1
        return [Expansion(0, 0, 1, 2)] if self.asked == 1 else [Expansion(1, 1, 3, 2)]

    def tell(self, trial, values, finished):
        self.told += 1

    @property
    def is_over(self):
        return self.told == 2

    def live(self):
        return [True, self.told < 2, False, False, False]
""",
    "search/values/toy_value.py": """
from hornbeam.search.values.base import Value

class ToyValue(Value):
    def __call__(self, paths):
        return [float(path.node) for path in paths]
""",
}

#: Asks for all of them as for those that come with the package.
PROGRAM = """
import sys
import hornbeam as hb
from tests import models

assert hb.__file__.startswith(sys.argv[1]), hb.__file__
lm, prompt = hb.LM(models.llama()), models.prompt(40, 4)[0].tolist()
recipe = hb.keep.Recipe(
    hb.keep.ToyScore(),
    "50%",
    split=hb.keep.ToySplit(),
    reduce=hb.keep.ToyReduction(),
    when=hb.keep.ToyMoment(),
)
assert lm.generate(prompt, keep=recipe, max_new_tokens=12, draft=None).stats.reductions > 2

plain = lm.generate(prompt, max_new_tokens=12, draft=None).token_ids
out = lm.generate(prompt, max_new_tokens=12, draft=hb.spec.ToyDraft(), length=hb.spec.ToyStop())
assert out.token_ids == plain and out.stats.drafted > 0

draft = hb.spec.SmallModel(hb.LM(models.llama(layers=1)), shape=hb.spec.shape.ToyShape())
out = lm.generate(prompt, max_new_tokens=12, draft=draft, length=hb.spec.Fixed(6))
assert out.token_ids == plain and out.stats.drafted > 0
out = lm.generate(prompt, max_new_tokens=12, draft=hb.spec.ToyDraft(), length=hb.spec.Fixed(3), verify="toy")
assert out.token_ids == plain and out.stats.accepted == 0

step = hb.search.StepEnd(delimiter=None, max_tokens=5)
found = lm.search(prompt, recipe=hb.search.ToyPolicy(), value=hb.search.ToyValue(), step=step, draft=None)
assert found.stop == "over" and sorted(found.tree.paths) == [0, 1, 2, 3, 4] and found.best.node == 4

for package, names in (
    (hb.search, {"ToyPolicy", "ToyValue"}),
    (hb.keep, {"ToyScore", "ToySplit", "ToyReduction", "ToyMoment"}),
    (hb.spec, {"ToyDraft", "ToyStop"}),
    (hb.spec.shape, {"ToyShape"}),
):
    assert names <= set(package.__all__), (package, package.__all__)
assert not hasattr(hb.spec, "ToyDrafter") and not hasattr(hb.spec, "ToyStopAtWork")
"""


def test_a_file_of_each_family(tmp_path: Path) -> None:
    """In a copy of the package, so that nothing of this checkout changes."""
    copy = tmp_path / "hornbeam"
    for file in PACKAGE.rglob("*"):
        if file.is_file() and "__pycache__" not in file.parts:
            place = copy / file.relative_to(PACKAGE)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(file)
    for name, text in FILES.items():
        assert not (copy / name).exists()
        (copy / name).write_text(text, encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr


def test_what_type_checkers_are_told_is_all_that_is_found() -> None:
    """Every method that comes with the package is imported by name where users look for it."""
    families = {
        keep: ("keep/score", "keep/split", "keep/reduce", "keep/when"),
        speculation: ("speculation/draft", "speculation/stop"),
        speculation.shape: ("speculation/shape",),
        search: ("search/policy", "search/values"),
    }
    for package, folders in families.items():
        text = Path(str(package.__file__)).read_text(encoding="utf-8")
        for folder in folders:
            family = sys.modules[f"hornbeam.{folder.replace('/', '.')}"]
            [methods] = [
                value for name, value in vars(family).items() if name.isupper() and isinstance(value, dict)
            ]
            assert len(methods) > 2
            for name in methods:
                assert f'"{name}"' in text, f"{package.__name__} does not name {name}"


def test_two_methods_of_one_name_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "twins"
    folder.mkdir()
    (folder / "__init__.py").touch()
    for name in ("first", "second"):
        (folder / f"{name}.py").write_text("class Twin: pass\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(
        ImportError, match=r"twins\.second has a method Twin, which twins has from twins\.first"
    ):
        methods_in("twins", [str(folder)], lambda found: True)
    namespace = {"__name__": "twins", "__all__": [], "Twin": 3}
    with pytest.raises(ImportError, match="which twins has from int already"):
        export(namespace, {"Twin": type("Twin", (), {})})
