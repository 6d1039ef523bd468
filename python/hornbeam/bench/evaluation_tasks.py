"""Two tasks for lm-evaluation-harness, made of Python's standard library: no data set is downloaded.

``stdlib_choice`` asks which of four functions of a module a sentence describes, ``stdlib_module`` for the
module of a function, in words of the model's own. Documents are the same at every call on one version of
Python.
"""

from __future__ import annotations

import importlib
import inspect
import random
from typing import Any

__all__ = ["choice", "documents", "module_name"]

MODULES = """\
ast asyncio.tasks bisect calendar collections colorsys configparser contextlib copy csv datetime
difflib dis email.utils fileinput fnmatch fractions functools gettext glob heapq html imaplib
inspect ipaddress json linecache locale logging mailbox mimetypes netrc ntpath operator optparse os
pathlib pdb pickle pickletools platform plistlib posixpath pprint pydoc random re sched shlex shutil
socket statistics string subprocess tarfile tempfile textwrap threading timeit token tokenize
traceback types typing unittest.mock urllib.parse urllib.request uuid warnings weakref
xml.dom.minidom zipfile
"""


def described(name: str) -> dict[str, str]:
    """The functions of a module that say in a sentence what they do, by name."""
    module = importlib.import_module(name)
    found = {}
    for own, value in sorted(vars(module).items()):
        if own.startswith("_") or not inspect.isfunction(value) or value.__module__ != name:
            continue
        sentence = " ".join((inspect.getdoc(value) or "").split("\n\n")[0].split())
        if 20 <= len(sentence) <= 200:
            found[own] = sentence
    return found


def documents() -> dict[str, list[dict[str, Any]]]:
    """What is asked, and what is shown before: lists of documents under ``test`` and ``train``."""
    found = []
    chance = random.Random(0)
    for name in MODULES.split():
        functions = described(name)
        for own, sentence in functions.items():
            others = sorted(set(functions) - {own})
            if len(others) < 3:
                continue
            choices = [own, *chance.sample(others, 3)]
            chance.shuffle(choices)
            found.append(
                {
                    "module": name,
                    "function": own,
                    "sentence": sentence,
                    "choices": choices,
                    "answer": choices.index(own),
                }
            )
    chance.shuffle(found)
    return {"train": found[:60], "test": found[60:]}


def _task(name: str, num_documents: int, sampler: str, shots: int, **config: Any) -> dict[str, Any]:
    """The configuration of a task, as the harness takes it in place of a name."""

    def data_set(**options: Any) -> Any:
        import pyarrow
        from datasets import Dataset, DatasetDict

        parts = documents()
        rows = {"train": parts["train"], "test": parts["test"][:num_documents]}
        # Pickling, which a fingerprint is found by, fails where packages lie in a folder of their own.
        return DatasetDict(
            {
                part: Dataset(pyarrow.Table.from_pylist(own), fingerprint=f"stdlib_{part}_{len(own)}")
                for part, own in rows.items()
            }
        )

    return {
        "task": name,
        "custom_dataset": data_set,
        "test_split": "test",
        "fewshot_split": "train",
        "num_fewshot": shots,
        "fewshot_config": {"sampler": sampler},
        "metadata": {"version": 1.0},
        **config,
    }


def choice(num_documents: int, *, shots: int = 5, sampler: str = "first_n") -> dict[str, Any]:
    """Which of four functions a sentence describes: likelihoods, of several tokens each.

    Args:
        num_documents: so many questions.
        shots: examples before each.
        sampler: ``"first_n"`` shows all of them the same examples, ``"default"`` each its own.
    """
    return _task(
        "stdlib_choice",
        num_documents,
        sampler,
        shots,
        output_type="multiple_choice",
        doc_to_text="Module: {{module}}\nWhat a function of it does: {{sentence}}\nFunction:",
        doc_to_choice="{{choices}}",
        doc_to_target="answer",
        metric_list=[
            {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
            {"metric": "acc_norm", "aggregation": "mean", "higher_is_better": True},
        ],
    )


def module_name(num_documents: int, *, shots: int = 5, sampler: str = "first_n") -> dict[str, Any]:
    """The module of a function, greedily up to the end of the line.

    Args:
        num_documents: so many questions.
        shots: examples before each.
        sampler: as :func:`choice` has it.
    """
    return _task(
        "stdlib_module",
        num_documents,
        sampler,
        shots,
        output_type="generate_until",
        doc_to_text="{{function}}: {{sentence}}\nIs in the module:",
        doc_to_target="{{module}}",
        generation_kwargs={"until": ["\n"], "max_gen_toks": 12, "do_sample": False},
        metric_list=[{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    )
