"""``FastLinear`` takes plain linear layers, while it is open, and leaves no trace."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from torch import nn

from hornbeam import _native
from hornbeam.fast_linear import FastLinear
from hornbeam.ops.linear import linear


class Custom(nn.Linear):
    """A subclass, whose forward may do anything."""


def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(24, 40), nn.ReLU(), nn.Linear(40, 24, bias=False)).requires_grad_(False)


def native_calls(context: FastLinear, run: nn.Module, x: torch.Tensor) -> tuple[int, torch.Tensor]:
    """How many calls of the kernel a forward pass makes, and its result."""
    with mock.patch.object(_native, "linear", side_effect=_native.linear) as spy, context:
        y = run(x)
    return spy.call_count, y


@torch.no_grad()
def test_uses_the_kernel_inside_only() -> None:
    net, x = model(), torch.randn(3, 24)
    before = [dict(module.__dict__) for module in net.modules()]
    expected = net(x)
    fast = FastLinear(net)
    assert len(fast) == 2
    calls, y = native_calls(fast, net, x)
    assert calls == 2
    hidden = linear(x, net[0].weight, net[0].bias).relu()
    assert torch.equal(y, linear(hidden, net[2].weight))
    torch.testing.assert_close(y, expected)
    assert [dict(module.__dict__) for module in net.modules()] == before
    assert torch.equal(net(x), expected)


@torch.no_grad()
def test_nests_and_cleans_up_after_an_exception() -> None:
    net, x = model(), torch.randn(3, 24)
    fast = FastLinear(net)

    def fail() -> None:
        with fast:
            assert native_calls(fast, net, x)[0] == 2
            assert "forward" in net[0].__dict__
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert "forward" not in net[0].__dict__


def test_leaves_autograd_alone() -> None:
    net = model().requires_grad_(True)
    calls, y = native_calls(FastLinear(net), net, torch.randn(3, 24))
    assert calls == 0
    y.sum().backward()
    assert net[0].weight.grad is not None


@torch.no_grad()
def test_falls_back_to_torch() -> None:
    net = model()
    fast = FastLinear(net, max_rows=4)
    assert native_calls(fast, net, torch.randn(5, 24))[0] == 0
    assert native_calls(fast, net, torch.randn(2, 2, 24))[0] == 2
    assert native_calls(fast, net, torch.randn(24))[0] == 2
    assert native_calls(fast, net, torch.randn(24, 4).T)[0] == 2
    with torch.autocast("cpu", dtype=torch.bfloat16):
        calls, y = native_calls(fast, net, torch.randn(3, 24))
    assert (calls, y.dtype) == (0, torch.bfloat16)
    net.bfloat16()
    calls, y = native_calls(fast, net, torch.randn(3, 24).bfloat16())
    assert (calls, y.dtype) == (2, torch.bfloat16)
    net[0].weight = nn.Parameter(torch.randn(24, 40).bfloat16().T, requires_grad=False)
    assert native_calls(fast, net, torch.randn(3, 24).bfloat16())[0] == 1


def test_takes_plain_modules_only() -> None:
    hooked = nn.Linear(4, 4)
    hooked.register_forward_hook(lambda module, arguments, result: result)
    replaced = nn.Linear(4, 4)
    replaced.forward = lambda x: x  # type: ignore[method-assign]
    parametrised = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
    transposed = nn.Linear(4, 4)
    transposed.weight = nn.Parameter(torch.randn(4, 4).T)
    others = [Custom(4, 4), nn.Linear(4, 4).double(), nn.Linear(4, 4, device="meta"), nn.Conv1d(4, 4, 1)]
    for module in [hooked, replaced, parametrised, transposed, *others]:
        assert len(FastLinear(nn.Sequential(module))) == 0, module
    assert len(FastLinear(nn.Sequential(nn.Linear(4, 4)))) == 1


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_do_not_depend_on_their_batch(dtype: torch.dtype) -> None:
    net, x = model().to(dtype), torch.randn(9, 24).to(dtype)
    with FastLinear(net, max_rows=64):
        whole = net(x)
        assert all(torch.equal(net(x[i : i + 1]), whole[i : i + 1]) for i in range(9))


@torch.no_grad()
def test_errors_are_those_of_torch() -> None:
    net = model()
    with FastLinear(net), pytest.raises(RuntimeError):
        net(torch.randn(2, 23))
    with FastLinear(net), pytest.raises(RuntimeError):
        net(torch.randn(2, 24).double())
