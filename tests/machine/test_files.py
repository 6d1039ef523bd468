"""Profiles in files: what is damaged or of another machine is ignored, and nothing is ever half written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

import hornbeam
from hornbeam.errors import ArgumentError
from hornbeam.machine import file, identity, kept
from hornbeam.machine.choice import PAIRS
from hornbeam.machine.operation import Operation
from hornbeam.machine.profile import Profile

LAYER = Operation("linear", (1536, 576), "float32")
MACHINE, MODEL = {"processor": "one", "threads": "2"}, {"layers": "30"}


def filled() -> Profile:
    profile = Profile()
    for bucket in (0, 3, 40):
        for _ in range(PAIRS):
            profile.record(LAYER, bucket, "hornbeam", {"hornbeam": 2e-4, "torch": 1e-4})
        profile.record(LAYER, bucket, "hornbeam", {"hornbeam": 2e-4, "torch": 1e-4})
    profile.cost = [(1.0, 0.03), (8.2, 0.05)]
    return profile


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of its own, and a process that has opened nothing yet."""
    monkeypatch.setenv("HORNBEAM_CACHE", str(tmp_path))
    monkeypatch.setattr(kept, "_OPEN", {})
    return tmp_path


def again(monkeypatch: pytest.MonkeyPatch, machine: dict[str, str] = MACHINE) -> kept.KeptProfile:
    """As the next process opens it."""
    monkeypatch.setattr(kept, "_OPEN", {})
    return kept.kept_profile(machine, MODEL)


def test_a_file_gives_back_what_was_written(tmp_path: Path) -> None:
    profile, path = filled(), tmp_path / "profile.json"
    profile.save(path)
    loaded = Profile.load(path)
    assert loaded.measured() == profile.measured()
    assert loaded.cost == ((1, 0.03), (8, 0.05))
    assert loaded.kernels.of(LAYER, 0, "hornbeam") == "torch"
    assert not loaded.learns
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("place", [0, 0.3, 0.6, 0.95])
def test_a_changed_byte_is_seen(tmp_path: Path, place: float) -> None:
    path = tmp_path / "profile.json"
    filled().save(path)
    data = bytearray(path.read_bytes())
    at = int(place * len(data))
    data[at] = ord("1") if data[at] != ord("1") else ord("2")
    path.write_bytes(data)
    with pytest.raises(ArgumentError, match="profile"):
        Profile.load(path)


@pytest.mark.parametrize("text", ["", "{}", "[1]", "\xff", '{"format": "hornbeam profile 2"}'])
def test_another_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "profile.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ArgumentError, match="profile"):
        Profile.load(path)


@pytest.mark.parametrize(
    ("name", "value"), [("kernel", None), ("rows", "x"), ("operation", "linear"), ("ratios", {"torch": [-1]})]
)
def test_wrong_entries_are_refused_though_the_digest_is_right(
    tmp_path: Path, name: str, value: object
) -> None:
    path = tmp_path / "profile.json"
    filled().save(path)
    found = json.loads(path.read_text())
    found["choices"][0][name] = value
    body = {key: found[key] for key in ("facts", "cost", "choices")}
    path.write_text(json.dumps({**found, "digest": file._digest(body)}))
    with pytest.raises(ArgumentError, match="not a profile of this version"):
        Profile.load(path)


def test_the_next_process_begins_with_what_the_last_has_learned(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = kept.kept_profile(MACHINE, MODEL)
    assert first is kept.kept_profile(MACHINE, MODEL)
    first.choose(LAYER, 2, "torch")
    first.keep()
    assert not first.path.exists(), "it is written at most once in ten seconds"
    first.keep(now=True)
    assert again(monkeypatch).kernels.of(LAYER, 2, "hornbeam") == "torch"
    assert again(monkeypatch, MACHINE | {"processor": "two"}).measured() == []
    assert again(monkeypatch, MACHINE | {"threads": "1"}).measured() == []


def test_two_processes_lose_nothing_of_each_other(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = kept.kept_profile(MACHINE, MODEL), again(monkeypatch)
    first.choose(LAYER, 2, "torch")
    first.choose(LAYER, 3, "torch")
    second.choose(LAYER, 3, "hornbeam")
    second.choose(LAYER, 4, "torch")
    first.keep(now=True)
    second.keep(now=True)
    kernels = again(monkeypatch).kernels
    assert [kernels.of(LAYER, bucket, "none") for bucket in (2, 3, 4)] == ["torch", "hornbeam", "torch"]


def test_a_damaged_file_is_ignored_with_a_warning_and_replaced(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = kept.kept_profile(MACHINE, MODEL)
    first.choose(LAYER, 2, "torch")
    first.keep(now=True)
    first.path.write_text(first.path.read_text()[:-40])
    with pytest.warns(RuntimeWarning, match="a profile is ignored: .* is not a profile"):
        second = again(monkeypatch)
    assert second.measured() == []
    second.choose(LAYER, 1, "torch")
    with pytest.warns(RuntimeWarning, match="a profile is ignored"):
        second.keep(now=True)
    assert len(again(monkeypatch).measured()) == 1


def test_a_file_of_another_machine_is_ignored_with_a_warning(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = kept.kept_profile(MACHINE, MODEL)
    first.choose(LAYER, 2, "torch")
    first.keep(now=True)
    other = again(monkeypatch, MACHINE | {"processor": "two"})
    first.path.rename(other.path)
    with pytest.warns(RuntimeWarning, match="is of another machine or model"):
        assert again(monkeypatch, MACHINE | {"processor": "two"}).measured() == []


def test_where_nothing_can_be_written_one_warning_says_so(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = kept.kept_profile(MACHINE, MODEL)
    (cache / "profiles").write_text("a file where the folder should be")
    profile.choose(LAYER, 2, "torch")
    with pytest.warns(RuntimeWarning, match="cannot be kept: .*HORNBEAM_PROFILE=off does not try"):
        profile.keep(now=True)
    profile.choose(LAYER, 3, "torch")
    profile.keep(now=True)


def test_readers_never_see_half_a_file(tmp_path: Path) -> None:
    path, profile = tmp_path / "profile.json", filled()
    profile.save(path)
    is_done = threading.Event()

    def write() -> None:
        for number in range(60):
            profile.choose(LAYER, number % 20, "torch")
            profile.save(path)
        is_done.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not is_done.is_set():
        assert Profile.load(path).measured()
    writer.join()


def test_what_is_learned_is_kept_at_the_end_of_the_process(cache: Path) -> None:
    code = (
        "from hornbeam.machine import kept\n"
        "from hornbeam.machine.operation import Operation\n"
        f"profile = kept.kept_profile({MACHINE}, {MODEL})\n"
        "profile.choose(Operation('linear', (8, 4), 'float32'), 0, 'torch')\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(hornbeam.__file__).parent.parent)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert len(kept.kept_profile(MACHINE, MODEL).measured()) == 1


def fake(root: Path, stepping: str = "1", flags: str = "fma avx2", size: str = "32K") -> Path:
    info = f"processor\t: 0\nvendor_id\t: Maker\ncpu family\t: 6\nmodel\t\t: 7\nstepping\t: {stepping}\n"
    (root / "proc").mkdir(parents=True)
    (root / "proc/cpuinfo").write_text(info + f"flags\t\t: {flags}\n\nprocessor\t: 1\n")
    index = root / "sys/devices/system/cpu/cpu0/cache/index0"
    index.mkdir(parents=True)
    for name, value in {"level": "1", "type": "Data", "size": size}.items():
        (index / name).write_text(value + "\n")
    pages = root / "sys/kernel/mm/transparent_hugepage"
    pages.mkdir(parents=True)
    (pages / "enabled").write_text("always [madvise] never\n")
    return root


def test_facts_name_what_decides_about_speed(tmp_path: Path) -> None:
    cpu = torch.device("cpu")
    facts = identity.machine_facts(cpu, threads=3, root=fake(tmp_path / "a"))
    assert facts["processor"] == "Maker 6 7 1"
    assert (facts["caches"], facts["huge_pages"], facts["threads"]) == ("1 Data 32K", "madvise", "3")
    assert torch.__version__ in facts["torch"]
    digests = {identity.digest(facts)}
    for name, change in {"b": {"stepping": "2"}, "c": {"flags": "fma"}, "d": {"size": "48K"}}.items():
        other = fake(tmp_path / name, **change)
        digests.add(identity.digest(identity.machine_facts(cpu, threads=3, root=other)))
    digests.add(identity.digest(identity.machine_facts(cpu, threads=2, root=tmp_path / "a")))
    assert len(digests) == 5
    # The order in which a processor lists its features says nothing.
    same = fake(tmp_path / "e", flags="avx2 fma")
    assert identity.digest(identity.machine_facts(cpu, threads=3, root=same)) in digests


def test_a_system_that_tells_nothing_has_facts_too(tmp_path: Path) -> None:
    facts = identity.machine_facts(torch.device("cpu"), root=tmp_path / "nothing")
    assert facts["features"] == facts["caches"] == facts["huge_pages"] == "unknown"
    assert all(facts.values())


@pytest.mark.parametrize("value", ["", "OFF", "profile.json"])
def test_the_variable_is_on_or_off(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("HORNBEAM_PROFILE", value)
    with pytest.raises(ArgumentError, match=r"HORNBEAM_PROFILE is .*expected 'on' or 'off'"):
        kept.is_wanted()
