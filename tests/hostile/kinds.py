"""Ways to hand over the same numbers, or numbers that only look the same."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode


class Tagged(torch.Tensor):
    """A subclass that changes nothing."""


def tensor(x: Any) -> torch.Tensor:
    return x if isinstance(x, torch.Tensor) else torch.from_numpy(np.ascontiguousarray(x))


def array(x: Any) -> np.ndarray:
    return x if isinstance(x, np.ndarray) else x.numpy().copy()


def swapped(x: Any) -> np.ndarray:
    a = array(x)
    return a.astype(a.dtype.newbyteorder(">"))


def unaligned(x: Any) -> np.ndarray:
    a = array(x)
    room = bytearray(a.nbytes + 1)
    view = np.frombuffer(room, a.dtype, offset=1).reshape(a.shape)
    view[...] = a
    return view


def unaligned_tensor(x: Any) -> torch.Tensor:
    t = tensor(x)
    view = torch.frombuffer(bytearray(t.numel() * t.element_size() + 1), dtype=t.dtype, offset=1).view(
        t.shape
    )
    return view.copy_(t)


def packed(x: Any) -> np.ndarray:
    """A field of records without padding."""
    a = array(x)
    records = np.zeros(a.shape, [("tag", "i1"), ("value", a.dtype)])
    records["value"] = a
    return records["value"]


def backwards(x: Any) -> np.ndarray:
    a = array(x)
    room = np.ascontiguousarray(a[..., ::-1])
    return room[..., ::-1]


def rows_backwards(x: Any) -> np.ndarray:
    a = array(x)
    return np.ascontiguousarray(a[::-1])[::-1]


def spaced(x: Any) -> torch.Tensor:
    t = tensor(x)
    room = torch.full((*t.shape, 2), 1, dtype=t.dtype)
    room[..., 0] = t
    return room[..., 0]


def column_major(x: Any) -> torch.Tensor:
    t = tensor(x)
    return t.permute(*reversed(range(t.dim()))).contiguous().permute(*reversed(range(t.dim())))


def masked(x: Any) -> np.ndarray:
    """All numbers are there, and none of them counts."""
    return np.ma.masked_array(array(x), mask=True)


def negated(x: Any) -> torch.Tensor:
    """A view whose memory holds the opposite signs."""
    return torch._neg_view(-tensor(x))


def needs_grad(x: Any) -> torch.Tensor:
    return tensor(x).clone().requires_grad_()


def fake(x: Any) -> torch.Tensor:
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        return mode.from_tensor(tensor(x))


def widened(x: Any) -> torch.Tensor:
    return tensor(x).double() if tensor(x).is_floating_point() else tensor(x).to(torch.float32)


#: Each returns an object with the same numbers, or one that has to be refused. A call either refuses it by
#: name, or gives exactly the result of the plain argument.
KINDS: dict[str, Callable[[Any], Any]] = {
    "numpy": lambda x: array(x).copy(),
    "torch": lambda x: tensor(x).clone(),
    "big-endian": swapped,
    "unaligned numpy": unaligned,
    "unaligned torch": unaligned_tensor,
    "a field of packed records": packed,
    "records": lambda x: np.zeros(array(x).shape, [("a", "f4"), ("b", "i4")]),
    "backwards": backwards,
    "rows backwards": rows_backwards,
    "spaced": spaced,
    "column-major": column_major,
    "masked": masked,
    "a numpy subclass": lambda x: array(x).copy().view(np.recarray),
    "a torch subclass": lambda x: tensor(x).clone().as_subclass(Tagged),
    "a parameter": lambda x: torch.nn.Parameter(tensor(x).clone(), requires_grad=False),
    "needs grad": needs_grad,
    "negated view": negated,
    "complex": lambda x: tensor(x).to(torch.complex64),
    "conjugated": lambda x: tensor(x).to(torch.complex64).conj(),
    "another width": widened,
    "float8": lambda x: tensor(x).to(torch.float8_e4m3fn),
    "int8": lambda x: tensor(x).to(torch.int8),
    "uint8": lambda x: tensor(x).to(torch.uint8),
    "int16": lambda x: tensor(x).to(torch.int16),
    "uint32": lambda x: tensor(x).to(torch.uint32),
    "uint64": lambda x: tensor(x).to(torch.uint64),
    "bool": lambda x: tensor(x) != 0,
    "objects": lambda x: array(x).astype(object),
    "dates": lambda x: array(x).astype("M8[s]"),
    "text": lambda x: array(x).astype("U4"),
    "sparse": lambda x: tensor(x).to_sparse(),
    "meta": lambda x: torch.empty(x.shape, dtype=tensor(x).dtype, device="meta"),
    "fake": fake,
    "without dimensions": lambda x: tensor(x).flatten()[0].clone(),
    "one dimension more": lambda x: tensor(x).clone()[None],
    "one dimension less": lambda x: tensor(x).clone().flatten(0, 1) if x.ndim > 1 else tensor(x)[0].clone(),
    "empty": lambda x: tensor(x)[:0].clone(),
    "longer": lambda x: torch.cat([tensor(x), tensor(x)]),
    "list": lambda x: x.tolist(),
    "None": lambda x: None,
    "name": lambda x: "x",
    "number": lambda x: 3,
}

#: These ask for something else, which may be good as well.
OTHER_SIZES = {"without dimensions", "one dimension more", "one dimension less", "empty", "longer"}


def read_only(x: Any) -> np.ndarray:
    a = array(x).copy()
    a.flags.writeable = False
    return a


def immutable(x: Any) -> np.ndarray:
    a = array(x)
    return np.frombuffer(bytes(a.nbytes), a.dtype).reshape(a.shape)


def expanded(x: Any) -> torch.Tensor:
    return tensor(x)[:1].clone().expand(x.shape)


#: Outputs that may not be written, or not by everyone at once.
OUTPUTS: dict[str, Callable[[Any], Any]] = {
    "read-only": read_only,
    "immutable": immutable,
    "expanded": expanded,
}
