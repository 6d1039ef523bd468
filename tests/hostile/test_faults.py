"""A fault of our own is an error of the call that met it: in a worker of the pool, alone, and repeatedly."""

import subprocess
import sys
import threading

import pytest
import torch

import hornbeam as hb
from hornbeam import _native, ops
from hornbeam.errors import InternalError

PLACES = ["host", "rayon", "attached"]


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_a_panic_becomes_an_error_and_the_pool_goes_on(where: str, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for faulty in (0, 3, 63):
            with pytest.raises(InternalError, match=f"internal error: .*task {faulty} is faulty"):
                _native.run_faulty_tasks(where, 64, faulty)
            assert _native.run_faulty_tasks(where, 64, 64) == 64
        x, weight = torch.ones(64, 256), torch.ones(128, 256)
        assert (ops.linear(x, weight) == 256).all()
    finally:
        torch.set_num_threads(before)


def test_the_error_is_an_ordinary_exception() -> None:
    assert issubclass(InternalError, hb.errors.HornbeamError)
    assert issubclass(InternalError, RuntimeError)


def test_faults_in_several_threads_at_once() -> None:
    outcomes: list[str] = []

    def work(number: int) -> None:
        for _ in range(50):
            try:
                _native.run_faulty_tasks("host", 32, number)
            except InternalError as error:
                outcomes.append(str(error))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == sorted(
        f"internal error: task {n} is faulty" for n in range(4) for _ in range(50)
    )


def test_a_process_with_many_threads_lives_on_after_faults() -> None:
    """Where every task of every worker is faulty, in a process of its own: an abort would be seen there."""
    code = """
import torch
torch.set_num_threads(8)
from hornbeam import _native, ops
from hornbeam.errors import InternalError
for task in range(200):
    try:
        _native.run_faulty_tasks("host", 200, task)
    except InternalError:
        continue
    raise SystemExit(f"task {task} did not fail")
assert (ops.linear(torch.ones(64, 256), torch.ones(128, 256)) == 256).all()
print("alive")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "alive\n", done.stderr[-500:]
    assert done.returncode == 0


def test_a_fault_in_a_tree_is_told_by_every_later_call() -> None:
    tree = hb.PrefixTree(num_layers=1, num_kv_heads=1, head_dim=4, page_tokens=4)
    other = hb.PrefixTree(num_layers=1, num_kv_heads=1, head_dim=4, page_tokens=4)
    branch = tree.branch()
    with pytest.raises(InternalError, match="a change is faulty"):
        tree._native.run_faulty_change()
    calls = (tree.branch, tree.stats, branch.fork, tree.clear, branch.release)
    for call in calls:
        with pytest.raises(InternalError, match="left this tree unusable; make a new one"):
            call()
    del branch
    assert other.branch().length == 0
