"""The CUDA lane: the operations of :mod:`hornbeam.ops` on tensors of a device.

``hornbeam.ops`` comes here by itself when its tensors are on a GPU. What is here beside that:
:func:`status`, and :class:`DevicePlan` for callers that keep a plan's buffer, as graph capture needs.
Kernels run on torch's current stream; nothing is allocated or waited for within a launch.
"""

from hornbeam.cuda.codes import condense_pages, quantise_pages
from hornbeam.cuda.decide import verify
from hornbeam.cuda.device import emulated, is_on_device, lane, require, runs_on, status, upload
from hornbeam.cuda.mass import attention_mass
from hornbeam.cuda.plans import DevicePlan, tree_attention, write_rows
from hornbeam.cuda.rows import gather_rows, move_rows, put_rows
from hornbeam.cuda.select import select_keys

__all__ = [
    "DevicePlan",
    "attention_mass",
    "condense_pages",
    "emulated",
    "gather_rows",
    "is_on_device",
    "lane",
    "move_rows",
    "put_rows",
    "quantise_pages",
    "require",
    "runs_on",
    "select_keys",
    "status",
    "tree_attention",
    "upload",
    "verify",
    "write_rows",
]
