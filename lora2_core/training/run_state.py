"""The state of a run as named tensors and plain values, and a run from its state: a restored run
goes on to the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from ..layers.adapters import Adapters
from .groups import groups_of, parameters_of
from .optimizers import TwoOptimizers
from .run import Run

# {"tensor at": name} stands for a tensor among the plain values
REFERENCE = "tensor at"
# entries of an optimizer's group that are not saved, since they depend on the device
DEVICES_OWN = ("params", "fused", "foreach")
CPU = torch.device("cpu")
# tensors and plain values (float, int, bool, str, None), in dicts and lists
Tree: TypeAlias = Any


def split(tree: Tree, tensors: dict[str, Tensor], path: str = "") -> object:
    """Moves the tensors of a tree to `tensors`, by their path in it. Returns the rest of the tree,
    which JSON can hold.
    """
    if torch.is_tensor(tree):
        tensors[path] = tree.detach()
        return {REFERENCE: path}
    if isinstance(tree, Mapping):
        return {k: split(v, tensors, f"{path}/{k}" if path else k) for k, v in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [split(v, tensors, f"{path}/{i}") for i, v in enumerate(tree)]
    if tree is None or isinstance(tree, (bool, int, float, str)):
        return tree
    raise ValueError(f"{path} is a {type(tree).__name__}, which a checkpoint can't hold.")


def joined(plain: object, tensors: Mapping[str, Tensor]) -> Tree:
    """Returns the tree that `split` took apart."""
    if isinstance(plain, dict):
        if set(plain) == {REFERENCE}:
            return tensors[plain[REFERENCE]]
        return {k: joined(v, tensors) for k, v in plain.items()}
    if isinstance(plain, list):
        return [joined(v, tensors) for v in plain]
    return plain


def captured(run: Run) -> dict:
    """Returns the state of a run between two steps; its tensors are the run's own, not copies."""
    state = {
        "adapters": captured_adapters(run.adapters),
        "optimizer": optimizer_state(run.optimizer, run.adapters),
        "price": {name: getattr(run.price, name) for name in run.price.STATE},
        "random": run.random,
        "scale": {"value": run.scale.value, "good": run.scale.good},
        "bad": run.bad_steps,
        "losses": torch.tensor(run.losses, dtype=torch.float64),
        "mean_ranks": torch.tensor(run.mean_ranks, dtype=torch.float64),
    }
    return state | ({"observed": run.observed} if run.observed else {})


def captured_adapters(adapters: Adapters) -> dict:
    """Returns the state of the adapters alone, as `captured` does."""
    return {
        "ranks": list(adapters.ranks.values()),
        "rates": adapters.rate_parameter,
        "random": adapters.generator.get_state(),
        "worths": adapters.worths,
        "same_input": adapters.paths.groups,
        "lora_up": {name: c.lora_up for name, c in adapters.components.items()},
        "lora_down": {name: c.lora_down for name, c in adapters.components.items()},
    }


def restore(run: Run, state: Mapping) -> None:
    """Gives a new run the state of a captured one. Raises ValueError if the state doesn't fit
    it.
    """
    adapters = run.adapters
    try:
        restore_adapters(adapters, state["adapters"])
        restore_optimizer(run.optimizer, adapters, state["optimizer"])
        # what a state of an earlier version does not have stays as in a new run
        for name in set(run.price.STATE) & set(state["price"]):
            setattr(run.price, name, copied_to(state["price"][name], adapters.device))
        run.random = state["random"].clone()
        run.generator.set_state(run.random)
        run.scale.value, run.scale.good = state["scale"]["value"], state["scale"]["good"]
        run.bad_steps = state["bad"]
        run.losses, run.mean_ranks = state["losses"].tolist(), state["mean_ranks"].tolist()
        run.observed = dict(state.get("observed", {}))
    except (KeyError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        raise ValueError(f"its state is not that of such a run ({error})") from error


def copied_to(value: Tree, device: torch.device) -> Tree:
    """Returns a tensor, or a list of them, copied to the device. Memory of their own makes sums
    come out the same to the last bit.
    """
    if torch.is_tensor(value):
        return value.to(device, copy=True)
    return [copied_to(v, device) for v in value] if isinstance(value, list) else value


def restore_adapters(adapters: Adapters, state: Mapping) -> None:
    """Restores the adapters' tensors, ranks and random generator."""
    device, ranks = adapters.device, list(state["ranks"])
    for (name, component), rank in zip(adapters.components.items(), ranks, strict=True):
        up, down = state["lora_up"][name], state["lora_down"][name]
        expected = (component.fan_out, len(down)), (up.shape[1], component.fan_in)
        if (tuple(up.shape), tuple(down.shape)) != expected or not 0 <= rank <= len(down):
            shapes = f"lora_up {list(up.shape)}, lora_down {list(down.shape)}, rank {rank}"
            raise ValueError(f"layer {name} has {shapes}, which don't fit together")
        component.lora_up = nn.Parameter(copied_to(up, device))
        component.lora_down = nn.Parameter(copied_to(down, device))
    with torch.no_grad():
        adapters.rate_parameter.copy_(state["rates"])
    adapters.generator.set_state(state["random"].clone())
    adapters.worths = dict(state["worths"])
    adapters.paths.groups = state.get("same_input")  # None: they are found again
    adapters.take_ranks(ranks)


def optimizer_state(optimizer: TwoOptimizers, adapters: Adapters) -> dict:
    """Returns the optimizer's moments of every parameter, and the values of its groups."""
    named = parameters_of(adapters)
    groups = [{k: g[k] for k in g if k not in DEVICES_OWN} for g in optimizer.param_groups]
    return {
        "steps": optimizer.steps,
        "groups": groups,
        "memory": {n: dict(optimizer.state[p]) for n, p in named.items() if p in optimizer.state},
    }


def restore_optimizer(optimizer: TwoOptimizers, adapters: Adapters, state: Mapping) -> None:
    """Restores the optimizer from its optimizer_state. The adapters must have their tensors by
    then.
    """
    named, rates = parameters_of(adapters), "rates"
    groups = list(groups_of(adapters, optimizer.settings.loraplus_lr_ratio).values())
    for group, names in zip(optimizer.weight_groups, groups, strict=True):
        group["params"] = [named[name] for name in names]
    optimizer.state.clear()
    pairs = zip(optimizer.param_groups, state["groups"], strict=True)
    for (group, values), names in zip(pairs, (*groups, [rates]), strict=False):
        for key, value in values.items():
            value = copied_to(value, adapters.device)
            group[key] = tuple(value) if isinstance(value, list) else value
        # torch's own rule: the count of steps lies on the CPU unless the optimizer is fused
        counts = adapters.device if group.get("fused") or group.get("capturable") else CPU
        for name in names:
            if name in state["memory"]:
                optimizer.state[named[name]] = {
                    key: copied_to(value, counts if key == "step" else adapters.device)
                    for key, value in state["memory"][name].items()
                }
    optimizer.steps = state["steps"]
