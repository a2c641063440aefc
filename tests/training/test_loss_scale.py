"""fp16 gradients: scaled they arrive, unscaled they vanish."""

import pytest
import torch
from torch import nn

import lora2_core as lora2
from lora2_core.training.loss_scale import FIRST, LossScale


class Tiny(nn.Module):
    """A frozen fp16 layer whose loss is so small that its fp16 gradients underflow."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.to_q = nn.Linear(8, 8, bias=False).half().requires_grad_(False)

    def forward(self, x):
        return self.to_q(x)


def lora_up_moves(half: bool) -> float:
    model = Tiny()
    adapters = lora2.attach(
        model, "to_q", lora2.RankSettings(mode="fixed", target_rank=2, max_rank=2)
    )

    def loss_fn(generator):
        x = torch.randn(4, 8, generator=generator).half()
        return (model(x) * 1e-4).float().sum() * 1e-5

    list(
        lora2.train(adapters, loss_fn, lora2.TrainSettings(steps=3, learning_rate=1e-2), half=half)
    )
    return float(adapters.components["to_q"].lora_up.detach().abs().max())


def test_small_gradients_survive_only_when_scaled():
    with pytest.raises(ValueError, match="No layer gets a gradient"):
        lora_up_moves(half=False)
    assert lora_up_moves(half=True) > 0


def test_an_overflow_halves_the_scale_and_is_no_fault():
    scale = LossScale(True)
    assert scale.overflowed() and scale.value == FIRST / 2
    assert not LossScale(False).overflowed()


def test_gradients_come_out_unscaled():
    parameter = nn.Parameter(torch.tensor([3.0]))
    LossScale(True).backward(parameter.square().sum(), lambda: [parameter.grad])
    assert parameter.grad.item() == 6
