"""``use_native_linear`` sends the plain linear layers of a model through the kernel, and no others."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from hornbeam import _native
from hornbeam.errors import StateError
from hornbeam.machine.operation import Operation
from hornbeam.machine.profile import Profile
from hornbeam.machine.rows import LAST_ROWS, bucket_of
from hornbeam.model.linear import use_native_linear
from hornbeam.model.switch import Switch
from hornbeam.ops.linear import linear


class Custom(nn.Linear):
    """A subclass, whose forward may do anything."""


def model() -> nn.Sequential:
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(24, 40), nn.ReLU(), nn.Linear(40, 24, bias=False)).requires_grad_(False)
    for parameter in net.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) / 5)
    return net


def fewer_than(rows: int) -> Switch:
    """Torch's kernel from so many rows on, for all layers of the model here."""
    profile = Profile(learns=False)
    for sizes in ((40, 24), (24, 40)):
        for dtype in ("float32", "bfloat16"):
            for bucket in range(bucket_of(rows), len(LAST_ROWS) + 1):
                profile.choose(Operation("linear", sizes, dtype), bucket, "torch")
    switch = Switch()
    switch.attach(profile)
    return switch


def numbers(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def native_calls(run: nn.Module, x: torch.Tensor) -> tuple[int, torch.Tensor]:
    """How many calls of the kernel a forward pass makes, and its result."""
    with mock.patch.object(_native, "linear", side_effect=_native.linear) as spy:
        y = run(x)
    return spy.call_count, y


@torch.no_grad()
def test_uses_the_kernel() -> None:
    net, x = model(), numbers(3, 24)
    expected = net(x)
    assert use_native_linear(net) == 2
    calls, y = native_calls(net, x)
    assert calls == 2
    hidden = linear(x, net[0].weight, net[0].bias).relu()
    assert torch.equal(y, linear(hidden, net[2].weight))
    torch.testing.assert_close(y, expected)


def test_leaves_autograd_alone() -> None:
    net = model().requires_grad_(True)
    use_native_linear(net)
    calls, y = native_calls(net, numbers(3, 24))
    assert calls == 0
    y.sum().backward()
    assert net[0].weight.grad is not None


@torch.no_grad()
def test_falls_back_to_torch() -> None:
    net = model()
    use_native_linear(net, fewer_than(5))
    assert native_calls(net, numbers(5, 24))[0] == 0
    assert native_calls(net, numbers(2, 2, 24))[0] == 2
    assert native_calls(net, numbers(24))[0] == 2
    assert native_calls(net, numbers(24, 4).T)[0] == 2
    with torch.autocast("cpu", dtype=torch.bfloat16):
        calls, y = native_calls(net, numbers(3, 24))
    assert (calls, y.dtype) == (0, torch.bfloat16)
    net.bfloat16()
    calls, y = native_calls(net, numbers(3, 24).bfloat16())
    assert (calls, y.dtype) == (2, torch.bfloat16)
    net[0].weight = nn.Parameter(numbers(24, 40).bfloat16().T, requires_grad=False)
    assert native_calls(net, numbers(3, 24).bfloat16())[0] == 1


@torch.no_grad()
def test_hooks_go_on_being_called() -> None:
    net, x = model(), numbers(3, 24)
    net[0].register_forward_hook(lambda _module, _inputs, output: -output)
    expected = net(x)
    assert use_native_linear(net) == 2
    calls, y = native_calls(net, x)
    assert calls == 2
    torch.testing.assert_close(y, expected)


def test_takes_plain_modules_only() -> None:
    replaced = nn.Linear(4, 4)
    replaced.forward = lambda x: x  # type: ignore[method-assign]
    parametrised = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
    pruned = prune.l1_unstructured(nn.Linear(4, 4), "weight", 0.5)
    transposed = nn.Linear(4, 4)
    transposed.weight = nn.Parameter(numbers(4, 4).T)
    others = [Custom(4, 4), nn.Linear(4, 4).double(), nn.Linear(4, 4, device="meta"), nn.Conv1d(4, 4, 1)]
    for module in [replaced, parametrised, pruned, transposed, *others]:
        assert use_native_linear(nn.Sequential(module)) == 0, module
    assert use_native_linear(nn.Sequential(nn.Linear(4, 4))) == 1


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_do_not_depend_on_their_batch(dtype: torch.dtype) -> None:
    net, x = model().to(dtype), numbers(9, 24).to(dtype)
    use_native_linear(net, only_ours=True)
    whole = net(x)
    assert all(torch.equal(net(x[i : i + 1]), whole[i : i + 1]) for i in range(9))


@torch.no_grad()
def test_what_only_torch_can_do_is_refused_where_only_ours_may_run() -> None:
    net = model()
    use_native_linear(net, only_ours=True)
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(StateError, match="batch_invariant"):
        net(numbers(3, 24))
    net[0].weight = nn.Parameter(numbers(24, 40).T, requires_grad=False)
    with pytest.raises(StateError, match="batch_invariant"):
        net(numbers(3, 24))


@torch.no_grad()
def test_errors_are_those_of_torch() -> None:
    net = model()
    use_native_linear(net)
    with pytest.raises(RuntimeError):
        net(numbers(2, 23))
    with pytest.raises(RuntimeError):
        net(numbers(2, 24).double())
