"""Memory that its owner lets go while an operation works on it without the GIL: in processes of their own."""

import subprocess
import sys

PROGRAM = """
import ctypes, gc, threading, time
import numpy as np, torch
import hornbeam as hb
from hornbeam import _native, ops

torch.set_num_threads(1)
n, rows, threads = 30_000, 96, []
started = threading.Event()


def meanwhile(work):
    # Runs while the main thread is inside of the operation, which has released the GIL by then.
    def body():
        started.wait()
        time.sleep(0.02)
        work()
        # Other owners take what was given back.
        for _ in range(4):
            torch.full((1 << 20,), float("nan"))
    thread = threading.Thread(target=body)
    thread.start()
    threads.append(thread)
    started.set()


def pool():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, n // 16 + 64, 2, 16, 128, generator=generator)]


table = np.array([[i, 16 << 16, i * 16, -1] for i in range(n // 16)], np.int32)
slots = np.array([[n // 16 + i // 16, i % 16] for i in range(rows)], np.int32)
plan = _native.Plan(
    table, np.zeros(0, np.int32), np.zeros((0, 2), np.int32),
    np.array([[0, len(table), 0, rows, n // 16 * 16, 0, -1, 0]], np.int32),
    np.full(rows, n, np.int32), np.arange(1, rows + 1, dtype=np.int32), slots,
)
q = torch.randn(rows, 8, 128, generator=torch.Generator().manual_seed(1))
layer = dict(layer=0, num_kv_heads=2)
chunks = pool()
want = ops.tree_attention(q, chunks, plan, **layer)
start = time.perf_counter()
again = ops.tree_attention(q, chunks, plan, **layer)
assert time.perf_counter() - start > 0.04, "too short to be interrupted"
"""

CASES = {
    "the list of chunks is emptied": """
meanwhile(lambda: (chunks.clear(), gc.collect()))
got = ops.tree_attention(q, chunks, plan, **layer)
""",
    "a chunk is exchanged in the list": """
meanwhile(lambda: chunks.__setitem__(0, torch.zeros(1)))
got = ops.tree_attention(q, chunks, plan, **layer)
""",
    "a chunk gets another storage by set_": """
meanwhile(lambda: chunks[0].set_(torch.zeros(1)))
got = ops.tree_attention(q, chunks, plan, **layer)
""",
    "a chunk gets another storage by .data": """
def exchange():
    chunks[0].data = torch.zeros(1)
meanwhile(exchange)
got = ops.tree_attention(q, chunks, plan, **layer)
""",
    "the queries get another storage": """
mine = q.clone()
meanwhile(lambda: mine.set_(torch.zeros(1)))
got = ops.tree_attention(mine, chunks, plan, **layer)
""",
    "the pages' numbers are an array that is dropped": """
arrays = [chunk.numpy().copy() for chunk in chunks]
chunks = None
meanwhile(lambda: (arrays.clear(), gc.collect()))
got = ops.tree_attention(q, arrays, plan, **layer)
""",
    "numpy is asked to resize": """
array = q.numpy().copy()
def resize():
    try:
        array.resize(4)
    except ValueError:
        return
    raise SystemExit("numpy gave the memory back")
meanwhile(resize)
got = torch.empty_like(q)
_native.tree_attention(array, chunks, plan, got, None, 0, 2, None, None, None, None)
""",
}


def test_memory_in_use_is_kept() -> None:
    """All cases in one process, each on a pool of its own; a crash shows after the name of its case."""
    code = PROGRAM
    for name, case in CASES.items():
        code += f"print({name!r}, flush=True)\nchunks = pool()\nstarted.clear()\n{case}\n"
        code += "while threads: threads.pop().join()\nassert torch.equal(got, want)\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, (done.returncode, done.stdout, done.stderr[-800:])
    assert done.stdout.splitlines() == list(CASES)


def test_references_are_given_back() -> None:
    code = """
import gc, sys, torch
import numpy as np
import hornbeam as hb
from tests.hostile.operations import OPERATIONS
for name, operation in OPERATIONS.items():
    arguments = operation.make()
    objects = [x for x in arguments.values() if isinstance(x, torch.Tensor | np.ndarray)]
    objects += arguments.get("chunks", [])
    operation.call(**arguments)
    before = [sys.getrefcount(x) for x in objects]
    for _ in range(10):
        operation.call(**arguments)
    after = [sys.getrefcount(x) for x in objects]
    assert before == after, (name, before, after)
print("even")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert done.stdout == "even\n", done.stderr[-800:]


def test_words_of_a_corpus_that_its_owner_writes_to_are_copied(tmp_path) -> None:  # type: ignore[no-untyped-def]
    import torch

    import hornbeam as hb
    from hornbeam import _native

    corpus = hb.spec.build_corpus([[1, 2, 3, 4, 5], [1, 2, 3, 9]])
    path = tmp_path / "corpus"
    corpus.save(path)
    words = torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.int32).clone()
    held = _native.SuffixCorpus.from_words(words)
    before = _native.SuffixDraft([1, 2, 3], held, 1).propose([], 1).tokens
    words.fill_(-1)
    words.untyped_storage().resize_(0)
    held.check()
    assert _native.SuffixDraft([1, 2, 3], held, 1).propose([], 1).tokens == before
