"""A head of one's own: the model writes, its states are kept, and the heads are trained on them."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hornbeam.engine.ambient import tensors_on_the_cpu
from hornbeam.errors import ArgumentError
from hornbeam.model.fingerprint import fingerprint
from hornbeam.speculation import FeatureHead
from hornbeam.speculation.draft.head_network import HeadFile
from hornbeam.tensor_file import read_tensors, replace_tensors
from hornbeam.training.acceptance_head import train_acceptance
from hornbeam.training.checkpoint import read_draft_ids
from hornbeam.training.closed_form import fit
from hornbeam.training.dense_head import DenseHead, save
from hornbeam.training.feature_head import FeatureTraining, measure
from hornbeam.training.folder import HeadFolder
from hornbeam.training.prompts import made_prompts
from hornbeam.training.recorded_text import Texts
from hornbeam.training.recorder import TEMPERATURES, record
from hornbeam.training.seeds import generator_of, seed_of
from hornbeam.training.settings import (
    LABELS_SHARE,
    RECORDING_SHARE,
    STEPS_SHARE,
    VOCABULARY,
    HeadTraining,
)
from hornbeam.training.target import HeadTarget
from hornbeam.training.texts import digest, prompt_ids
from hornbeam.training.vocabulary import choose_vocabulary, expected_shares

if TYPE_CHECKING:
    from hornbeam.lm import LM

__all__ = ["TrainedHead", "train_head"]

# Guesses in a row that the trained head is measured at.
FINAL_DEPTH = 6


@dataclass(frozen=True)
class TrainedHead:
    """What a training wrote.

    Attributes:
        feature_head: the file for :class:`hornbeam.speculation.FeatureHead`.
        acceptance_head: the file for :class:`hornbeam.speculation.AcceptanceHead`.
        report: what the log in the folder holds: settings, measurements, figures of held-out texts.
    """

    feature_head: Path
    acceptance_head: Path
    report: dict[str, Any]


def _nothing(_: str) -> None:
    pass


def train_head(
    lm: LM,
    folder: str | PathLike[str],
    settings: HeadTraining | None = None,
    *,
    prompts: Sequence[str] | None = None,
    start: str | PathLike[str] | None = None,
    name: str = "",
    note: Callable[[str], Any] = _nothing,
    show: Callable[[str], Any] = _nothing,
) -> TrainedHead:
    """Trains a feature head for a model, and an acceptance head for that one.

    The model answers prompts; what it writes and its hidden states are kept in the folder (for each token as
    many float16 numbers as the head reads: 4.6 KB for the default model). The feature head is fitted to them,
    trained by gradient steps and written, and after it the acceptance head. A training that was ended, by
    whatever means, goes on when it is asked for again with the same folder: at the first batch of texts that
    is missing, or the last measurement. With ``steps`` in its settings it comes out as if it had never been
    interrupted, to the bit, on the same machine with as many threads. It is on the CPU.

    Args:
        lm: the model, with a tokenizer, on the CPU. No other requests must be under way; its cache is
            cleared. For results that repeat it is made with ``profile="off"``.
        folder: to write into, a new one or that of the same training; with ``minutes`` or ``steps`` that are
            more than before, a training that was over goes on.
        settings: all numbers that decide what comes out, and the budget.
        prompts: that the model answers; made from templates by default.
        start: a feature head of the model to begin with, in place of a fitted one.
        name: of the model, for the log.
        note: is told each result in a line.
        show: is told what is under way.

    Raises:
        ArgumentError: the folder holds something else or the head of another model, or there are not enough
            prompts.
        UnsupportedModel: the architecture has no support for feature heads, or ``start`` is of another model.
        OSError: the folder cannot be written.
    """
    with tensors_on_the_cpu(), torch.inference_mode(False), torch.enable_grad():
        return _Training(lm, HeadFolder(folder), settings or HeadTraining(), start, note, show).run(
            prompts, name
        )


class _Training:
    """One call of :func:`train_head`."""

    def __init__(
        self,
        lm: LM,
        folder: HeadFolder,
        settings: HeadTraining,
        start: str | PathLike[str] | None,
        note: Callable[[str], Any],
        show: Callable[[str], Any],
    ) -> None:
        if lm.tokenizer is None:
            raise ArgumentError("the LM has no tokenizer, which its prompts need")
        if lm.engine.runner.shape.device.type != "cpu":
            raise ArgumentError(f"the model is on {lm.engine.runner.shape.device}, expected one on the CPU")
        self.lm, self.folder, self.settings = lm, folder, settings
        self.note, self.show = note, show
        self.target = HeadTarget.of(lm)
        self.start: HeadFile | None = None
        if start is not None:
            self.start = HeadFile.load(FeatureHead(start).path)
            self.start.check(lm.engine)
        self.taps = self._taps()

    def _taps(self) -> tuple[int, ...]:
        settings, last = self.settings, self.target.num_layers
        if self.start is not None:
            for option in ("taps", "inner", "vocabulary"):
                if getattr(settings, option) is not None:
                    raise ArgumentError(f"{option} is given, but the head of start has its own")
            taps = tuple(self.start.settings["taps"])
        else:
            taps = self.target.taps if settings.taps is None else tuple(settings.taps)
        is_ascending = all(low < high for low, high in pairwise(taps))
        if not taps or not is_ascending or taps[0] < 0 or taps[-1] != last:
            raise ArgumentError(
                f"taps are {list(taps)}, expected ascending layers, the last of which is the model's last, "
                f"{last}"
            )
        return taps

    def run(self, prompts: Sequence[str] | None, name: str) -> TrainedHead:
        settings, folder = self.settings, self.folder
        self.show("reading the prompts")
        if prompts is None:
            prompts = made_prompts(settings.prompts, settings.seed)
        ids, num_left_out = prompt_ids(self.lm, prompts, settings.prompts, settings.tokens, settings.seed)
        if num_left_out:
            self.note(f"{num_left_out:,} prompts are left out: the model's context has no room for them")
        model = {"name": name, "weights": fingerprint(self.lm.model, self.lm.tokenizer)["weights"]}
        start = None if self.start is None else _digest_of(self.start.path)
        folder.open({"model": model, "settings": settings.identity, "prompts": digest(ids), "start": start})
        report = folder.read_log()
        if report is not None and report["settings"] == settings.to_dict():
            self.note(f"{folder.path} holds the whole training; more minutes or steps go on with it")
            return TrainedHead(folder.feature_head, folder.acceptance_head, report)
        folder.reopen()
        files, recording_seconds = self._record(ids)
        texts = Texts.load(files)
        self.note(f"{len(texts.training):,} texts of {texts.num_training_tokens:,} tokens to train on")
        training = self._begin(texts)
        limit = settings.seconds
        spent = recording_seconds + training.progress.start_seconds
        training.run(None if limit is None else STEPS_SHARE * limit - spent)
        self.show("measuring the head")
        curve = measure(training.head, texts.held_out, FINAL_DEPTH)
        save(training.head, folder.feature_head)
        progress, stored = training.progress, HeadFile.load(folder.feature_head)
        stored.check(self.lm.engine)
        begin = time.monotonic()
        left = None if limit is None else LABELS_SHARE * limit - spent - progress.step_seconds
        acceptance = train_acceptance(
            stored,
            DenseHead.load(stored, self.target),
            texts,
            settings.acceptance,
            settings.seed,
            folder.acceptance_head,
            until=None if left is None else begin + left,
            note=self.note,
            show=self.show,
        )
        report = {
            "model": name,
            "settings": settings.to_dict(),
            "taps": list(self.taps),
            "seconds": {
                "recording": recording_seconds,
                "start": progress.start_seconds,
                "steps": progress.step_seconds,
                "acceptance": time.monotonic() - begin,
            },
            "training_texts": len(texts.training),
            "training_tokens": texts.num_training_tokens,
            "held_out_texts": len(texts.held_out),
            "covered": progress.covered,
            "log": progress.log,
            "held_out": curve,
            "acceptance": acceptance,
        }
        folder.write_log(report)
        return TrainedHead(folder.feature_head, folder.acceptance_head, report)

    def _record(self, prompts: Sequence[Sequence[int]]) -> tuple[list[Path], float]:
        """Files of texts in order, and the seconds that the model wrote."""
        settings = self.settings
        limit = None if settings.seconds is None else RECORDING_SHARE * settings.seconds
        files: list[Path] = []
        spent = 0.0
        for number, begin in enumerate(range(0, len(prompts), settings.batch)):
            file, batch = self.folder.states(number), prompts[begin : begin + settings.batch]
            if file.exists():
                spent += float(read_tensors(file, "a file of recorded texts")[1]["seconds"])
                files.append(file)
                continue
            if limit is not None and begin > 1 and spent >= limit:
                break
            what = f"the model writes texts {begin + 1:,} to {begin + len(batch):,} of {len(prompts):,}"
            self.show(what)
            since = time.monotonic()
            data = record(
                self.lm,
                self.target,
                batch,
                taps=self.taps,
                temperature=TEMPERATURES[number % len(TEMPERATURES)],
                seed=seed_of(settings.seed, "texts", number),
                tokens=settings.tokens,
                show=partial(self._show_count, what),
            )
            seconds = time.monotonic() - since
            replace_tensors(file, data, {"seconds": str(seconds)})
            self.note(f"{begin + len(batch):,} of {len(prompts):,} texts; the last took {seconds:.0f} s")
            spent += seconds
            files.append(file)
        self.lm.clear_cache()
        return files, spent

    def _show_count(self, what: str, count: int) -> None:
        self.show(f"{what}: {count:,} tokens")

    def _begin(self, texts: Texts) -> FeatureTraining:
        """The feature head as it was left, or as it begins."""
        settings, begin = self.settings, time.monotonic()
        is_resumed = self.folder.checkpoint.exists()
        covered = 0.0
        if is_resumed:
            draft_ids = read_draft_ids(self.folder.checkpoint)
        else:
            self.show("choosing the head's vocabulary")
            draws = generator_of(settings.seed, "places that choose the vocabulary")
            shares = expected_shares(texts.training, self.target.output, draws)
            draft_ids, covered = choose_vocabulary(shares, settings.vocabulary or VOCABULARY)
        if self.start is not None:
            head = DenseHead.load(self.start, self.target)
            if not is_resumed:
                covered = float(shares[1][head.draft_ids].sum())
        else:
            head = DenseHead(self.target, self.taps, draft_ids, settings.inner or self.target.inner)
            if not is_resumed:
                head.begin(generator_of(settings.seed, "weights"))
                fit(head, texts.training, generator_of(settings.seed, "the fit"), self.show)
        training = FeatureTraining(
            head,
            texts,
            settings,
            head_file=self.folder.feature_head,
            checkpoint=self.folder.checkpoint,
            note=self.note,
            show=self.show,
        )
        if is_resumed:
            training.resume()
            self.note(f"going on after step {training.progress.steps:,}")
        else:
            size = 2 * sum(value.numel() for value in head.parameters())
            self.note(
                f"the head has {size / 1e6:.1f} MB; its vocabulary covers {covered:.1%} of what is written"
            )
            training.begin(covered, time.monotonic() - begin)
        return training


def _digest_of(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
