"""Turns the host's `x += y` into `x = x + y`, so that autograd finds the values that it kept.

Transformers of the flow models add to their residual stream in place (comfy/ldm/flux/layers.py and
others), after a normalisation has kept that very tensor for the backward pass. Autograd then either
refuses ("modified by an inplace operation") or, where a checkpoint computes it again, which has no
such check, returns wrong gradients. Python rebinds the name on the left of `+=` to whatever comes
back, so another tensor will do; no model that is tested relies on a second name for the old one.
"""

from __future__ import annotations

import dis
import operator
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from types import CodeType

import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack

from .fused import plain_form

# `x += y` as Python calls it and as torch does, and what makes a new tensor in its place
AUGMENTED = (
    (operator.iadd, Tensor.add_, torch.add),
    (operator.isub, Tensor.sub_, torch.sub),
    (operator.imul, Tensor.mul_, torch.mul),
    (operator.itruediv, Tensor.div_, torch.true_divide),
)
FORMS = {called: form for _, called, form in AUGMENTED}
FIRST_AUGMENTED = 13  # NB_INPLACE_ADD, the first of BINARY_OP's augmented forms (opcode._nb_ops)


@cache
def is_augmented(code: CodeType, offset: int) -> bool:
    """Returns whether an instruction is an augmented assignment: torch calls `x += y` and
    `x.add_(y)` by the same name, and only the first takes another tensor for x.
    """
    operation, argument = code.co_code[offset : offset + 2]
    name = dis.opname[operation]
    return name.startswith("INPLACE_") or (name == "BINARY_OP" and argument >= FIRST_AUGMENTED)


class OutOfPlace(TorchFunctionMode):
    """Lets augmented assignments to floating-point tensors make new tensors of the same dtype.

    `x[:, :n] *= y` still writes into x, but its gradient keeps a copy of the old slice. Modes
    belong to a thread: what autograd computes again on a GPU has to enter its own.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        form = FORMS.get(func)
        if form is not None and args[0].is_floating_point():
            caller = sys._getframe(1)
            if is_augmented(caller.f_code, caller.f_lasti):
                left, right = args
                kept = left.clone() if left._is_view() else left
                return form(kept, right).to(left.dtype)
        func = plain_form(func) or func
        return func(*args, **(kwargs or {}))


def writes_allowed(model: nn.Module) -> Callable[[], AbstractContextManager]:
    """Returns the context of a diffusion model's passes with gradients: UNets write nothing in
    place.
    """
    return nullcontext if isinstance(model, UNetModel) else OutOfPlace


def is_out_of_place() -> bool:
    """Returns whether this thread computes so now."""
    return any(isinstance(mode, OutOfPlace) for mode in _get_current_function_mode_stack())


UNTRAINABLE = "This model writes over values that its gradients need, so it can't be trained here."


@contextmanager
def overwriting_refused(sentence: str = UNTRAINABLE) -> Iterator[None]:
    """Raises a ValueError that says what it means instead of autograd's error about a value that is
    written over in another way (`x.add_(y)`).
    """
    try:
        yield
    except RuntimeError as error:
        if "modified by an inplace operation" not in str(error):
            raise
        raise ValueError(sentence) from error
