"""Methods that models compute without gradients have them while the model is on loan."""

import torch
from torch import nn

from lora2_core.host.training.loan import on_loan
from lora2_core.host.training.no_grad import methods_without, with_gradients
from tests.models.build import build
from tests.models.data import data_for


class Experts(nn.Module):
    """As a model computes its experts in sampling."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 3)

    @torch.no_grad()
    def infer(self, x):
        return self.inner(x)

    @torch.inference_mode()
    def look(self, x):
        return x * 2

    @torch.enable_grad()
    def learn(self, x):
        return x * 3

    def forward(self, x):
        return self.infer(x)


@torch.inference_mode(False)
def test_what_is_kept_from_having_gradients_has_them_inside():
    model = Experts()
    x = torch.ones(2, 3, requires_grad=True)
    assert set(methods_without(Experts)) == {"infer", "look"}
    assert not model(x).requires_grad
    with with_gradients(model.modules()):
        (gradient,) = torch.autograd.grad(model(x).sum(), x)
        torch.testing.assert_close(gradient, model.inner.weight.sum(0).expand(2, 3))
    assert not model(x).requires_grad and not {"infer", "look"} & vars(model).keys()


def test_experts_of_hunyuan_3d_have_gradients():
    """Without them the blocks before would get only a part of theirs."""
    name = "Hunyuan3Dv2_1"
    model = build(name)
    data_for(name, model)
    with on_loan(model) as inner:
        experts = next(m for n, m in inner.named_modules() if n.endswith(".moe"))
        width = experts.gate.gating_dim
        x = torch.randn(1, 5, width, generator=torch.Generator().manual_seed(0)).requires_grad_()
        y = experts(x)
        (found,) = torch.autograd.grad(y.sum(), x)
        step = 1e-3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            slope = float((experts(x + step).sum() - experts(x - step).sum()) / 2)
        assert abs(float((found * step).sum()) - slope) < 0.05 * abs(slope)
    assert "moe_infer" not in vars(experts)
