"""What is known of memory: made-up machines and containers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import hornbeam as hb
from hornbeam import memory
from tests import models

GB = 1 << 30


def machine(root: Path, files: dict[str, str]) -> Path:
    """A machine of 64 GiB, 40 of which are available, with more files."""
    meminfo = f"MemTotal:       {64 * GB // 1024} kB\nMemFree:  12 kB\nMemAvailable:   {40 * GB // 1024} kB\n"
    for name, text in {"proc/meminfo": meminfo, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


V2 = "sys/fs/cgroup"
V1 = "sys/fs/cgroup/memory"


@pytest.mark.parametrize(
    ("files", "limit", "available"),
    [
        ({}, 64 * GB, 40 * GB),
        # A container sees its own group as the mount.
        ({"proc/self/cgroup": "0::/\n", f"{V2}/memory.max": f"{8 * GB}\n"}, 8 * GB, 8 * GB),
        ({"proc/self/cgroup": "0::/\n", f"{V2}/memory.max": "max\n"}, 64 * GB, 40 * GB),
        # The limit of a group above holds too; what was read and may be dropped is not used.
        (
            {
                "proc/self/cgroup": "0::/user.slice/job-7.scope\n",
                f"{V2}/user.slice/memory.max": f"{6 * GB}\n",
                f"{V2}/user.slice/memory.current": f"{5 * GB}\n",
                f"{V2}/user.slice/memory.stat": f"anon 12\ninactive_file {2 * GB}\nactive_file 5\n",
                f"{V2}/user.slice/job-7.scope/memory.max": "max\n",
                f"{V2}/user.slice/job-7.scope/memory.high": f"{7 * GB}\n",
                f"{V2}/user.slice/job-7.scope/memory.current": f"{GB}\n",
            },
            6 * GB,
            3 * GB,
        ),
        # Docker without a namespace of groups: the path is the host's, the mount is the container's.
        (
            {"proc/self/cgroup": "0::/system.slice/docker-abc.scope\n", f"{V2}/memory.max": f"{2 * GB}\n"},
            2 * GB,
            2 * GB,
        ),
        ({"proc/self/cgroup": "0::/../../other\n", f"{V2}/memory.max": f"{3 * GB}\n"}, 3 * GB, 3 * GB),
        (
            {
                "proc/self/cgroup": "11:cpu,cpuacct:/a\n4:hugetlb,memory:/a/b\n0::/\n",
                f"{V1}/a/memory.limit_in_bytes": f"{4 * GB}\n",
                f"{V1}/a/memory.usage_in_bytes": f"{3 * GB}\n",
                f"{V1}/a/memory.stat": f"cache 1\ntotal_inactive_file {GB}\n",
                f"{V1}/a/b/memory.limit_in_bytes": "9223372036854771712\n",
            },
            4 * GB,
            2 * GB,
        ),
        # A limit above the machine's memory is none; use above the limit leaves nothing.
        ({"proc/self/cgroup": "0::/\n", f"{V2}/memory.max": f"{900 * GB}\n"}, 64 * GB, 40 * GB),
        (
            {
                "proc/self/cgroup": "0::/\n",
                f"{V2}/memory.max": f"{GB}\n",
                f"{V2}/memory.current": f"{2 * GB}\n",
            },
            GB,
            0,
        ),
    ],
)
def test_the_least_limit_counts(tmp_path: Path, files: dict[str, str], limit: int, available: int) -> None:
    root = machine(tmp_path, files)
    assert memory.limit_bytes(root) == limit
    assert memory.available_bytes(root) == available


def test_nothing_is_known_elsewhere(tmp_path: Path) -> None:
    assert memory.limit_bytes(tmp_path) is None
    assert memory.available_bytes(tmp_path) is None


def test_this_machine_has_memory() -> None:
    limit, available = memory.limit_bytes(), memory.available_bytes()
    if limit is None:
        pytest.skip("no /proc/meminfo here")
    assert available is not None
    assert 0 < available <= limit


@pytest.mark.parametrize(
    ("limit", "available", "expected"),
    [
        (16 * GB, 12 * GB, 4 * GB),
        (16 * GB, 2 * GB, GB),
        (16 * GB, 1 << 20, 64 << 20),
        (16 * GB, None, 4 * GB),
    ],
)
def test_the_pages_take_a_share_of_it(
    monkeypatch: pytest.MonkeyPatch, limit: int, available: int | None, expected: int
) -> None:
    monkeypatch.setattr("hornbeam.memory.limit_bytes", lambda: limit)
    monkeypatch.setattr("hornbeam.memory.available_bytes", lambda: available)
    lm = hb.LM(models.llama())
    assert lm.tree.max_bytes == expected
    assert lm.tree.num_bytes == 0


@pytest.mark.parametrize("slabs", [1, 2, 3, 5])
@pytest.mark.parametrize("draft", ["default", "recycling", "layers"])
def test_a_budget_that_decodes_plainly_decodes_with_a_draft(slabs: int, draft: str) -> None:
    model = models.llama()
    slab = hb.LM(model).tree.slab_bytes
    options = {
        "default": {},
        "recycling": {
            "draft": hb.spec.TokenRecycling(size=40, width=4, depth=4),
            "length": hb.spec.Fixed(40),
        },
        "layers": {"draft": hb.spec.LayerSkip(exit_layer=1), "length": hb.spec.Fixed(3)},
    }[draft]
    prompt = [3, 4, 5, 3, 4]
    count = 16 * slabs - len(prompt)  # the last token needs no row: there is one slot to spare
    right = hb.LM(model).generate(prompt, max_new_tokens=count, draft=None)
    lm = hb.LM(model, max_kv_bytes=slabs * slab)
    assert lm.generate(prompt, max_new_tokens=count, draft=None).token_ids == right.token_ids
    for _ in range(2):
        assert lm.generate(prompt, max_new_tokens=count, **options).token_ids == right.token_ids
    lm.tree.debug_check()


def test_calibration_lets_go_of_nothing() -> None:
    model = models.llama()
    slab = hb.LM(model).tree.slab_bytes
    lm = hb.LM(model, max_kv_bytes=4 * slab)
    lm.generate(list(range(3, 36)), max_new_tokens=1, draft=None)
    lm.calibrate()
    assert 1 <= max(rows for rows, _ in lm.cost_curve.points()) <= 16
    assert lm.generate(list(range(3, 36)), max_new_tokens=1, draft=None).stats.reused_tokens == 32
    full = hb.LM(model, max_kv_bytes=slab)
    full.generate([3, 4, 5], max_new_tokens=1, draft=None)
    full.calibrate()
    assert full.cost_curve.points() == []
    full.clear_cache()
    full.calibrate()
    assert full.cost_curve.points()
    assert torch.isfinite(torch.tensor(full.cost_curve.points())).all()
