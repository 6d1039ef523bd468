"""A search on disk: a folder with what it was begun with, and one file a round.

A round is added in time that depends on the round alone. Each file is written whole or not at all, and names
the checksum of the one before: a process that is killed at any moment leaves a search that can be gone on
with, and a file of another search is not taken for one of this.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hornbeam.errors import ArgumentError
from hornbeam.search.path import Path, packed, unpacked
from hornbeam.search.policy.base import Expansion, Search
from hornbeam.search.tree_file import read_json, read_tree, write_json, write_tree
from hornbeam.whole_file import PARTIAL

__all__ = ["Round", "SearchFolder"]

HEADER = "search.json"
SEARCH = "hornbeam search"
ROUND = "hornbeam search round"


@dataclass
class Round:
    """A round that was written, valued and told.

    Attributes:
        most: how many children it might have had.
        each: tokens that each of them might have had.
        asked: what the policy asked for.
        paths: of the children, in that order.
        spent: :meth:`Ledger.snapshot` after it.
    """

    most: int
    each: int
    asked: list[Expansion]
    paths: list[Path]
    spent: list[int] = field(default_factory=list)

    def tell(self, search: Search, notes: Mapping[str, Sequence[Any]]) -> None:
        """Tells a policy what became of the children that it asked for; ``notes`` are one a path."""
        begin = 0
        for expansion in self.asked:
            own = slice(begin, begin + expansion.children)
            search.tell(
                expansion.trial,
                [path.value for path in self.paths[own] if path.value is not None],
                [path.is_finished for path in self.paths[own]],
                **{name: each[own] for name, each in notes.items()},
            )
            begin += expansion.children


class SearchFolder:
    """The folder of a search. One process at a time writes into it.

    Attributes:
        folder: where it lies.
        facts: what the search was begun with, as JSON has it.
        budget: its limits, by name.
        rounds: those that it holds; of a new one none, since they are not kept in memory.
    """

    def __init__(self, folder: pathlib.Path, facts: Mapping[str, Any], budget: Mapping[str, Any]) -> None:
        self.folder = folder
        self.facts = facts
        self.budget = budget
        self.rounds: list[Round] = []
        self._first = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
        self._checksums: list[str] = []

    @classmethod
    def create(
        cls, path: str | os.PathLike[str], facts: Mapping[str, Any], budget: Mapping[str, Any]
    ) -> SearchFolder:
        """A folder for a new search.

        Raises:
            ArgumentError: it holds a search already, or is no folder.
            OSError: it cannot be written.
        """
        folder = pathlib.Path(path)
        if folder.exists() and not folder.is_dir():
            raise ArgumentError(f"checkpoint is {path}, which is a file, expected a folder")
        if (folder / HEADER).exists() or any(folder.glob("round-*")):
            raise ArgumentError(
                f"checkpoint is {path}, which holds a search already; expected another folder, or "
                "resume= to go on with that search"
            )
        folder.mkdir(parents=True, exist_ok=True)
        made = cls(folder, facts, budget)
        made._write_header()
        return made

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> SearchFolder:
        """The search that a folder holds, with all of its rounds.

        Raises:
            ArgumentError: there is none, or one of its files is of another search, of a later version or
                damaged; the message names the file.
        """
        folder = pathlib.Path(path)
        if not (folder / HEADER).is_file():
            raise ArgumentError(f"resume is {path}, expected a folder with a search: it has no {HEADER}")
        header = read_json(folder / HEADER, SEARCH)
        found = cls(folder, header["search"], header["budget"])
        known = {0: Path(0, None, "", [], [], 0, list(found.facts["prompt_ids"]))}
        files = sorted(folder.glob("round-*"))
        for number, file in enumerate(files, 1):
            if file != found._file(number):
                raise ArgumentError(f"{file} is not expected: the search has no {found._file(number).name}")
            found._read(file, known)
        return found

    def _read(self, file: pathlib.Path, known: dict[int, Path]) -> None:
        tensors, data, checksum = read_tree(file, ROUND, "resume")
        if data["previous"] != self._last():
            raise ArgumentError(f"{file} is of another search than the files before it")
        asked = [Expansion(*one) for one in data["asked"]]
        paths = unpacked(tensors, data, known)
        self.rounds.append(Round(data["most"], data["each"], asked, paths, data["spent"]))
        self._checksums.append(checksum)

    def add(self, done: Round) -> None:
        """Writes one more round.

        Raises:
            OSError: it cannot be written; the folder is what it was.
        """
        tensors, texts = packed(done.paths)
        data = {
            "previous": self._last(),
            "most": done.most,
            "each": done.each,
            "asked": [list(one) for one in done.asked],
            "spent": done.spent,
        }
        file = self._file(len(self._checksums) + 1)
        self._checksums.append(write_tree(file, ROUND, tensors, data | texts))

    def go_on(self, count: int, budget: Mapping[str, Any]) -> None:
        """Keeps the first ``count`` rounds, to go on after them with a ``budget``.

        Raises:
            OSError: it cannot be written.
        """
        for left in self.folder.glob(f".*{PARTIAL}"):
            left.unlink(missing_ok=True)  # of a process that was killed
        if budget != self.budget:
            self.budget = budget
            self._write_header()
        for number in range(len(self._checksums), count, -1):
            self._file(number).unlink()  # the last first, so that what is left has no gap
        del self._checksums[count:]
        self.rounds = []

    def _write_header(self) -> None:
        write_json(self.folder / HEADER, SEARCH, {"search": self.facts, "budget": self.budget})

    def _file(self, number: int) -> pathlib.Path:
        return self.folder / f"round-{number:06}.safetensors"

    def _last(self) -> str:
        return self._checksums[-1] if self._checksums else self._first
