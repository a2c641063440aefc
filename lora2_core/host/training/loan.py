"""Lends models: cloned ModelPatchers are made ready for autograd, and put back exactly as they
came.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import comfy.model_management
import comfy.utils
import torch
from torch import nn

from .ahead import Ahead
from .attention import AttentionWithGradients
from .frozen import FrozenLayers
from .no_grad import with_gradients
from .switches import set_for_training

# what a dynamic patcher notes in modules, and where it holds the memory of its weights
DYNAMIC = {
    "_v", "_v_signature", "_v_weight", "_v_bias", "_pin_state", "_pins", "_prefetch", "seed_key",
    "dynamic_pins", "dynamic_vbars", "dynamic_patchers", "weight_lowvram_function",
    "bias_lowvram_function",
}  # fmt: skip
# set on modules when weights are loaded, to values that are only true of that patcher
CASTING = {
    "comfy_cast_weights", "comfy_patched_weights", "prev_comfy_cast_weights",
    "comfy_force_cast_weights", "weight_function", "bias_function",
}  # fmt: skip
SHARED = ("model_config", "latent_format")  # parts of a model that nobody changes
# what a ModelPatcher notes in a model of which nothing is loaded
START = {
    "model_loaded_weight_memory": 0, "lowvram_patch_counter": 0, "model_lowvram": False,
    "current_weight_patches_uuid": None, "model_offload_buffer_memory": 0,
}  # fmt: skip


def plain_alias(tensor: torch.Tensor) -> torch.Tensor:
    """Returns a normal tensor on the storage of an inference tensor, which autograd refuses; copies
    nothing.
    """
    alias = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    return alias.set_(
        tensor.untyped_storage(), tensor.storage_offset(), tensor.shape, tensor.stride()
    )


def replace_inference_tensors(module: nn.Module, replaced: list) -> None:
    """Swaps every inference parameter and buffer for a normal one on the same storage; appends
    (table, name, tensor) of each to `replaced`, to be put back.
    """
    for part in module.modules():
        for table in (part._parameters, part._buffers):
            for name, tensor in table.items():
                if (
                    tensor is None
                    or not tensor.is_inference()
                    or type(tensor.data) is not torch.Tensor
                ):
                    continue
                alias = plain_alias(tensor)
                if isinstance(tensor, nn.Parameter):
                    alias = nn.Parameter(alias, requires_grad=False)
                replaced.append((table, name, tensor))
                table[name] = alias


def trainable_clone(model):
    """Returns a clone that shares the weights. That of a dynamic patcher has modules of its own, as
    its weights lie in memory that may be taken back between forward and backward.
    """
    if not model.is_dynamic():
        return model.clone()
    nothing = {}, {}, {}, set()  # no weight of it is patched, replaced or pinned yet
    return model.clone(disable_dynamic=True, model_override=(plain_twin(model), nothing))


def plain_twin(patcher) -> nn.Module:
    """Returns a dynamic patcher's model with other modules on the same memory, which is mapped from
    the model's file: nothing is read again, and nothing copied.

    Parts that the host has cast or patched for the card are as they were before. What it notes of
    dynamic weights in modules is left out.
    """
    model, memo = patcher.model, {}
    for tensor in (*model.parameters(), *model.buffers()):
        is_weight = isinstance(tensor, nn.Parameter)
        alias = nn.Parameter(tensor.data, requires_grad=False) if is_weight else tensor.detach()
        memo[id(tensor)] = alias
    kept = [getattr(model, name, None) for name in SHARED]
    for part in model.modules():
        kept += [value for name, value in vars(part).items() if name in DYNAMIC]
    memo |= {id(value): value for value in kept}
    twin = copy.deepcopy(model, memo)
    for part in twin.modules():
        for name in DYNAMIC & vars(part).keys():
            delattr(part, name)
        for name in CASTING & vars(part).keys():  # of instances: the class has its own value
            delattr(part, name)
    for key, before in patcher.backup.items():
        comfy.utils.set_attr_param(twin, key, before.weight)
    for key, buffer in patcher.backup_buffers.items():
        comfy.utils.set_attr_buffer(twin, key, buffer)
    for name, value in START.items():
        setattr(twin, name, value)
    twin.device = patcher.offload_device
    return twin


def loaded_on(device: torch.device) -> int:
    """Returns the bytes of weights that the host has loaded on a device."""
    loaded = comfy.model_management.current_loaded_models
    there = [each for each in loaded if each.device == device and each.model is not None]
    return sum(each.model_loaded_memory() for each in there)


def beside_weights(device: torch.device) -> int:
    """Returns the bytes of a device's memory that hold something else than weights which the host
    has loaded; 0 on devices that don't count.
    """
    counted = getattr(torch.get_device_module(device), "memory_allocated", None)
    return 0 if counted is None else counted(device) - loaded_on(device)


class Loan:
    """Holds clones of a model's ModelPatcher and of others that belong to it. `take` loads them and
    makes them ready for autograd; `give_back` puts every parameter and buffer back. Weights are
    shared, not copied.
    """

    def __init__(self, model, *others):
        self.patchers = [trainable_clone(each) for each in (model, *others)]
        self.patcher, self.inner = self.patchers[0], self.patchers[0].model
        self.executor = torch.is_inference_mode_enabled()  # the mode that the host runs nodes in
        self.beside = 0  # bytes that a run takes on the card beside the weights
        self.others = 0  # bytes beside the weights that were there before
        self.ahead, self.room = Ahead(self.patcher.load_device), 0  # and bytes for it
        self.attention = AttentionWithGradients()
        self.frozen: FrozenLayers | None = None  # while the models are lent
        self.held = ExitStack()  # the host's switches and its attention, while they are others
        self.replaced: list[tuple[dict, str, torch.Tensor]] = []

    def modules(self) -> list[nn.Module]:
        """Returns all modules of all models."""
        return [module for patcher in self.patchers for module in patcher.model.modules()]

    def parameters(self) -> list[nn.Parameter]:
        """Returns all parameters of all models."""
        return [p for patcher in self.patchers for p in patcher.model.parameters()]

    def take(self) -> None:
        """Loads the clones and makes them ready for autograd. One call loads all of them, so that
        none drives another out of memory. Afterwards the host computes as training needs it: its
        attention has gradients, and so has all else. The host leaves as many bytes free as the run
        has yet to take.
        """
        taken = beside_weights(self.patcher.load_device) - self.others if self.beside else 0
        with torch.inference_mode(self.executor):
            comfy.model_management.load_models_gpu(
                self.patchers,
                memory_required=max(0, self.beside - max(0, taken)),
                force_full_load=False,
            )
        for patcher in self.patchers:
            replace_inference_tensors(patcher.model, self.replaced)
        self.held.enter_context(set_for_training())
        self.held.enter_context(self.attention.everywhere())
        self.held.enter_context(with_gradients(self.modules()))
        model = getattr(self.inner, "diffusion_model", self.inner)
        self.ahead.start(self.modules(), model, self.room)

    def give_back(self) -> None:
        """Puts every parameter and buffer back, and how the host computes."""
        self.ahead.stop()
        self.held.close()
        for table, name, tensor in self.replaced:
            table[name] = tensor
        self.replaced.clear()

    def leave_room(self, beside: int, ahead: int = 0) -> None:
        """Has the host leave so many bytes free on the card from now on: it loads more weights, or
        moves some to RAM. ahead: as many of these bytes are for weights that are fetched ahead.
        """
        self.give_back()
        self.beside, self.room = beside, ahead
        comfy.model_management.soft_empty_cache()
        self.others = beside_weights(self.patcher.load_device)
        self.take()

    @contextmanager
    def paused(self) -> Iterator:
        """Gives the models back to the host inside, which may sample with them, move and unload
        them, and yields the model's patcher. Adapters stay on. The memory that the host has cached
        meanwhile is freed at the end.
        """
        self.give_back()
        try:
            with torch.inference_mode(self.executor), torch.no_grad():
                yield self.patcher
        finally:
            comfy.model_management.soft_empty_cache()
            self.take()


@contextmanager
def lent(model, *others) -> Iterator[Loan]:
    """Loads clones of a ModelPatcher, and of others with it, and yields them with gradients
    possible, the executor's inference mode off. Afterwards everything is as before, requires_grad
    and train flags too, whatever happened.
    """
    loan = Loan(model, *others)
    training = {module: module.training for module in loan.modules()}
    learning: list[nn.Parameter] = []
    with torch.inference_mode(False), torch.enable_grad():
        try:
            loan.take()
            learning += [p for p in loan.parameters() if p.requires_grad]
            for parameter in learning:
                parameter.requires_grad_(False)
            for patcher in loan.patchers:
                patcher.model.eval()
            loan.frozen = FrozenLayers(loan.modules(), loan.ahead)
            yield loan
        finally:
            loan.give_back()
            if loan.frozen is not None:
                loan.frozen.remove()
            for parameter in learning:
                parameter.requires_grad_(True)
            for module, flag in training.items():
                module.training = flag


@contextmanager
def on_loan(model) -> Iterator:
    """Yields the inner model of `lent`, for callers that need nothing else of the loan."""
    with lent(model) as loan:
        yield loan.inner
