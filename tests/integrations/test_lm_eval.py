"""The figures of lm-evaluation-harness are those of its own ``hf`` model: ``make test-eval``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip(
    "lm_eval", reason="make test-eval installs lm-eval, whose dependencies nothing else needs"
)

import hornbeam as hb
from hornbeam.bench.evaluation_tasks import choice, module_name
from hornbeam.errors import ArgumentError
from tests.integrations.evaluated import model_and_tokenizer

# Its dependencies warn about each other.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module", autouse=True)
def nothing_is_downloaded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("HF_DATASETS_OFFLINE", "1")
        yield


def both(model: Any, tokenizer: Any, **options: Any) -> tuple[Any, Any]:
    from lm_eval.models.huggingface import HFLM

    from hornbeam.integrations.lm_eval import HornbeamLM

    ours = HornbeamLM(hb.LM(model, tokenizer), **options)
    return ours, HFLM(pretrained=model, tokenizer=tokenizer, batch_size=3, device="cpu", **options)


def evaluated(model: Any, tasks: list[Any], **options: Any) -> dict[str, Any]:
    import lm_eval
    from lm_eval.tasks import TaskManager

    options |= {
        "bootstrap_iters": 0,
        "verbosity": "ERROR",
        "task_manager": TaskManager(include_defaults=False),
    }
    found = lm_eval.simple_evaluate(model=model, tasks=tasks, **options)
    assert found is not None
    return found


def answers(found: dict[str, Any], task: str) -> list[Any]:
    return [response for sample in found["samples"][task] for response in sample["resps"]]


@pytest.mark.parametrize(("positions", "shots"), [(4096, 2), (300, 5)])
def test_the_same_figures(positions: int, shots: int) -> None:
    """Also where contexts are longer than the model's."""
    ours, theirs = both(*model_and_tokenizer(positions))
    tasks = [choice(5, shots=shots), module_name(5, shots=shots)]
    got, want = evaluated(ours, tasks), evaluated(theirs, tasks)
    assert got["results"] == want["results"]
    for (ll, is_greedy), in_theirs in zip(
        [one for [one] in answers(got, "stdlib_choice")],
        [one for [one] in answers(want, "stdlib_choice")],
        strict=True,
    ):
        assert ll == pytest.approx(float(in_theirs[0]), rel=1e-4)
        assert is_greedy == in_theirs[1]
    assert answers(got, "stdlib_module") == answers(want, "stdlib_module")
    assert any(text for [text] in answers(got, "stdlib_module"))


class Asked:
    """A request of the harness."""

    def __init__(self, *args: Any) -> None:
        self.args = args
        self.task_name = "none"


def test_the_same_likelihoods_and_texts() -> None:
    """Without a context, with spaces at its end, over windows, with other stop strings and lengths."""
    ours, theirs = both(*model_and_tokenizer(64))
    texts = ["word " * count for count in (1, 20, 60)]
    rolling = [Asked(text) for text in texts]
    assert ours.loglikelihood_rolling(rolling) == pytest.approx(
        theirs.loglikelihood_rolling(rolling), rel=1e-4
    )
    pairs = [Asked("", "one two"), Asked("a b  ", "c"), Asked("a b", "  c"), Asked("a " * 60, "ending")]
    for (ll, is_greedy), (other, other_greedy) in zip(
        ours.loglikelihood(pairs), theirs.loglikelihood(pairs), strict=True
    ):
        assert (ll, is_greedy) == (pytest.approx(other, rel=1e-4), other_greedy)
    written = [
        Asked("the first", {"until": ["e", "\n"], "max_gen_toks": 9}),
        Asked("the second", {"until": "o", "max_gen_toks": 20, "do_sample": False}),
        Asked("the third " * 9, {"max_gen_toks": 5, "temperature": 0.0}),
        Asked("the first", {"until": ["e", "\n"], "max_gen_toks": 9}),
    ]
    assert ours.generate_until(written) == theirs.generate_until(written)


def test_chats() -> None:
    ours, theirs = both(*model_and_tokenizer())
    chat = [{"role": "user", "content": "hello"}]
    assert ours.apply_chat_template(chat) == theirs.apply_chat_template(chat)
    begun = [*chat, {"role": "assistant", "content": "well"}]
    assert ours.apply_chat_template(begun, False) == theirs.apply_chat_template(begun, False)
    assert ours.tokenizer_name == theirs.tokenizer_name
    assert ours.chat_template(True) == theirs.chat_template(True)
    assert ours.prefix_token_id == theirs.prefix_token_id


def test_sampling_begins_with_the_harness_seed() -> None:
    ours, _ = both(*model_and_tokenizer())
    asked = [Asked("the first", {"until": [], "max_gen_toks": 12, "do_sample": True, "temperature": 1.0})]
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(ours.generate_until(asked))
    assert found[0] == found[1] != found[2]


def test_what_is_not_honoured_is_refused_by_name() -> None:
    from hornbeam.integrations.lm_eval import HornbeamLM

    ours, _ = both(*model_and_tokenizer())
    with pytest.raises(ArgumentError, match="num_beams"):
        ours.generate_until([Asked("the first", {"num_beams": 4})])
    with pytest.raises(TypeError, match="peft"):
        HornbeamLM(ours.lm, peft="folder")
    with pytest.raises(ArgumentError, match="batch_size"):
        HornbeamLM(ours.lm, batch_size=0)


TASK = """\
task: arithmetic
custom_dataset: !function questions.questions
test_split: test
output_type: multiple_choice
doc_to_text: "{{left}} + {{right}} ="
doc_to_choice: [" 3", " 4", " 5"]
doc_to_target: answer
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
metadata: {version: 1.0}
"""
QUESTIONS = """\
from datasets import Dataset, DatasetDict
from pyarrow import Table


def questions(**options):
    rows = [{"left": 1, "right": right, "answer": right - 2} for right in (2, 3, 4)]
    return DatasetDict({"test": Dataset(Table.from_pylist(rows), fingerprint="questions")})
"""


def test_the_command_line(tmp_path: Path) -> None:
    model, tokenizer = model_and_tokenizer()
    for one in (model, tokenizer):
        one.save_pretrained(tmp_path / "model")
    (tmp_path / "arithmetic.yaml").write_text(TASK)
    (tmp_path / "questions.py").write_text(QUESTIONS)
    command = [sys.executable, "-m", "hornbeam.integrations.lm_eval", "--model", "hornbeam"]
    command += ["--model_args", f"pretrained={tmp_path / 'model'},dtype=float32", "--tasks", "arithmetic"]
    command += ["--include_path", str(tmp_path), "--output_path", str(tmp_path / "out")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    [file] = (tmp_path / "out").rglob("results_*.json")
    found = json.loads(file.read_text())
    assert set(found["results"]["arithmetic"]) >= {"acc,none"}
    assert found["config"]["model"] == "hornbeam"
