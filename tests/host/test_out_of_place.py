"""Augmented assignments make new tensors, all else is as it was; models compute the same."""

import sys
from contextlib import nullcontext

import pytest
import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from lora2_core.host.training.examples import collate
from lora2_core.host.training.loan import on_loan
from lora2_core.host.training.objective import forward_mode
from lora2_core.host.training.out_of_place import OutOfPlace, is_augmented
from tests.host.examples import examples_of

from .flow_models import FAMILIES, build, pictures


@pytest.fixture(autouse=True)
def autograd():
    with torch.inference_mode(False), torch.enable_grad():
        yield


def test_every_form_keeps_the_left_dtype_and_the_old_tensor():
    for right in (torch.full((3,), 2.0), 2.0):
        x = old = torch.ones(3, dtype=torch.bfloat16)
        with OutOfPlace():
            x += right
            x *= right
            x -= right
            x /= right
        assert x is not old and x.dtype == torch.bfloat16
        assert x.tolist() == [2.0] * 3 and old.tolist() == [1.0] * 3


def test_methods_and_whole_numbers_still_write_in_place():
    x = torch.ones(3)
    number = other = torch.ones(3, dtype=torch.long)
    with OutOfPlace():
        x.add_(1)
        x.addcmul_(x, x)
        number += 1
    assert x.tolist() == [6.0] * 3 and other.tolist() == [2] * 3
    x += 1
    assert x.tolist() == [7.0] * 3


def test_the_instruction_tells_assignments_from_calls():
    seen = []

    class Operand:
        def note(self, other):
            caller = sys._getframe(1)
            seen.append(is_augmented(caller.f_code, caller.f_lasti))
            return self

        __iadd__ = __isub__ = __imul__ = __itruediv__ = __add__ = __mul__ = add_ = note

    for _ in range(200):  # until the interpreter has specialised its instructions
        x = Operand()
        x += 1
        x -= 1
        x *= 1
        x /= 1
        x.add_(1)
        _ = x.add_(1), x + 1, x * 1
        assert seen == [True] * 4 + [False] * 4
        seen.clear()


def residual(x, weight, gate):
    """What a transformer block does: a norm keeps x, x is added to, and a slice is scaled."""
    for _ in range(2):
        x += F.layer_norm(x, x.shape[-1:]) @ weight
    y = x @ weight
    y[:, :2] *= gate
    y[:, 1:] += gate
    return (x * y).square().mean()


@pytest.mark.parametrize("again", [False, True])
def test_gradients_of_a_residual_stream_and_of_slices(again):
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(4, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    gate = torch.randn(4, 1, generator=generator, dtype=torch.float64)

    def loss(weight, gate):
        def forward():
            with OutOfPlace():
                return residual(x + 0 * weight, weight, gate)

        return checkpoint(forward, use_reentrant=False) if again else forward()

    inputs = weight.requires_grad_(), gate.requires_grad_()
    torch.autograd.gradcheck(loss, inputs)


@pytest.mark.parametrize("name", list(FAMILIES))
def test_models_compute_the_same(name):
    """No model relies on a second name for a tensor that it adds to. (Conditions are made anew: the
    context processor of SD3 adds to the very tensor that it is given.)
    """
    model = build(name)
    with on_loan(model) as inner, torch.no_grad():
        examples, sigma = examples_of(model, inner, *pictures(name)), torch.tensor([0.2, 0.9])
        out = []
        for mode in (nullcontext(), forward_mode(inner)):
            x, conditions = collate(examples[:2])
            with mode:
                out.append(inner.apply_model(x, sigma, transformer_options={}, **conditions))
    torch.testing.assert_close(*out, rtol=1e-5, atol=1e-5)


def test_unets_are_left_alone(playground):
    assert not isinstance(forward_mode(playground.model.model), OutOfPlace)
    assert isinstance(forward_mode(build("Flux").model), OutOfPlace)
