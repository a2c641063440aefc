"""bf16 products in fp32, which the speed benchmark uses on CPUs without bf16 arithmetic."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from tests.benchmarks.speed.wide import Wide


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.linear = nn.Conv2d(4, 8, 3, padding=1), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(self.conv(x).flatten(2)).unsqueeze(1)
        return F.scaled_dot_product_attention(y, y, y.clone())


def trained(dtype: torch.dtype) -> tuple[Tensor, list[Tensor]]:
    torch.manual_seed(0)
    net, x = Net().to(dtype), torch.randn(2, 4, 4, 4).to(dtype)
    out = net(x)
    out.float().square().mean().backward()
    return out, [p.grad for p in net.parameters()]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_values_and_gradients_are_as_without_and_of_the_same_kind(dtype: torch.dtype):
    out, gradients = trained(dtype)
    with Wide():
        wide_out, wide_gradients = trained(dtype)
    for found, wanted in zip([wide_out, *wide_gradients], [out, *gradients], strict=True):
        assert found.dtype == dtype
        close = {"rtol": 0.05, "atol": 0.02 * float(wanted.detach().abs().max())}
        torch.testing.assert_close(found, wanted, **close)


def test_products_are_computed_in_fp32():
    a, seen = torch.ones(2, 2, dtype=torch.bfloat16), []

    class Seeing(TorchDispatchMode):
        def __torch_dispatch__(self, op, types, args=(), kwargs=None):
            if op.overloadpacket is torch.ops.aten.mm:
                seen.append(args[0].dtype)
            return op(*args, **(kwargs or {}))

    with Seeing(), Wide():
        assert (a @ a).dtype == torch.bfloat16
    assert seen == [torch.float32]
