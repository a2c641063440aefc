"""All that a run's next step depends on, as named tensors and plain values, and back: a run that is
put together again goes on to the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..layers.adapters import Adapters
from .optimizers import TwoOptimizers
from .run import Run

REFERENCE = "tensor at"  # {"tensor at": key} in the plain values stands for a tensor
DEVICES_OWN = ("params", "fused", "foreach")  # of an optimizer's group: not taken over
CPU = torch.device("cpu")
Tree = dict | list | Tensor | float | int | bool | str | None


def split(tree: Tree, tensors: dict[str, Tensor], path: str = "") -> object:
    """Returns the tree with its tensors moved to `tensors`, by their path: what is left fits in
    JSON.
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
    """Returns what `split` took apart."""
    if isinstance(plain, dict):
        if set(plain) == {REFERENCE}:
            return tensors[plain[REFERENCE]]
        return {k: joined(v, tensors) for k, v in plain.items()}
    if isinstance(plain, list):
        return [joined(v, tensors) for v in plain]
    return plain


def captured(run: Run) -> dict:
    """Returns the state of a run between two steps; its tensors are the run's own, not copies."""
    adapters = run.adapters
    return {
        "adapters": {
            "ranks": list(adapters.ranks.values()),
            "rates": adapters.rate_parameter,
            "random": adapters.generator.get_state(),
            "worths": adapters.worths,
            "lora_up": {name: c.lora_up for name, c in adapters.components.items()},
            "lora_down": {name: c.lora_down for name, c in adapters.components.items()},
        },
        "optimizer": optimizer_state(run.optimizer, adapters),
        "price": {name: getattr(run.price, name) for name in run.price.STATE},
        "random": run.random,
        "scale": {"value": run.scale.value, "good": run.scale.good},
        "bad": run.bad,
        "losses": torch.tensor(run.losses, dtype=torch.float64),
        "mean_ranks": torch.tensor(run.mean_ranks, dtype=torch.float64),
    }


def restore(run: Run, state: Mapping) -> None:
    """Makes a fresh run the one that was captured. ValueError where the state doesn't fit it."""
    adapters = run.adapters
    try:
        restore_adapters(adapters, state["adapters"])
        restore_optimizer(run.optimizer, adapters, state["optimizer"])
        for name in run.price.STATE:
            setattr(run.price, name, placed(state["price"][name], adapters.device))
        run.random = state["random"].clone()
        run.generator.set_state(run.random)
        run.scale.value, run.scale.good = state["scale"]["value"], state["scale"]["good"]
        run.bad = state["bad"]
        run.losses, run.mean_ranks = state["losses"].tolist(), state["mean_ranks"].tolist()
    except (KeyError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        raise ValueError(f"its state is not that of such a run ({error})") from error


def placed(value: Tree, device: torch.device) -> Tree:
    """Copies of tensors on the device, in memory of their own, so that sums come out alike."""
    if torch.is_tensor(value):
        return value.to(device, copy=True)
    return [placed(v, device) for v in value] if isinstance(value, list) else value


def restore_adapters(adapters: Adapters, state: Mapping) -> None:
    """Tensors, ranks and randomness of the adapters."""
    device, ranks = adapters.device, list(state["ranks"])
    for (name, component), rank in zip(adapters.components.items(), ranks, strict=True):
        up, down = state["lora_up"][name], state["lora_down"][name]
        room = (component.fan_out, len(down)), (up.shape[1], component.fan_in)
        if (tuple(up.shape), tuple(down.shape)) != room or not 0 <= rank <= len(down):
            shapes = f"lora_up {list(up.shape)}, lora_down {list(down.shape)}, rank {rank}"
            raise ValueError(f"layer {name} has {shapes}, which don't fit together")
        component.lora_up = nn.Parameter(placed(up, device))
        component.lora_down = nn.Parameter(placed(down, device))
    with torch.no_grad():
        adapters.rate_parameter.copy_(state["rates"])
    adapters.generator.set_state(state["random"].clone())
    adapters.worths = dict(state["worths"])
    adapters.take_ranks(ranks)


def parameters_of(adapters: Adapters) -> dict[str, Tensor]:
    """Returns everything that is trained by a name that stays."""
    named = {"rates": adapters.rate_parameter}
    for name, component in adapters.components.items():
        named |= {f"lora_up/{name}": component.lora_up, f"lora_down/{name}": component.lora_down}
    return named


def optimizer_state(optimizer: TwoOptimizers, adapters: Adapters) -> dict:
    """Returns what is remembered of every parameter, and the groups' own values."""
    named = parameters_of(adapters)
    groups = [{k: g[k] for k in g if k not in DEVICES_OWN} for g in optimizer.param_groups]
    return {
        "steps": optimizer.steps,
        "groups": groups,
        "memory": {n: dict(optimizer.state[p]) for n, p in named.items() if p in optimizer.state},
    }


def restore_optimizer(optimizer: TwoOptimizers, adapters: Adapters, state: Mapping) -> None:
    """Counterpart of optimizer_state, once the adapters have their tensors."""
    named, rates = parameters_of(adapters), "rates"
    kinds = "lora_up", "lora_down"
    groups = [[f"{k}/{n}" for n in ns for k in kinds] for ns in adapters.by_speed().values()]
    for group, names in zip(optimizer.weight_groups, groups, strict=True):
        group["params"] = [named[name] for name in names]
    optimizer.state.clear()
    pairs = zip(optimizer.param_groups, state["groups"], strict=True)
    for (group, values), names in zip(pairs, (*groups, [rates]), strict=False):
        for key, value in values.items():
            value = placed(value, adapters.device)
            group[key] = tuple(value) if isinstance(value, list) else value
        # torch's own rule: the count of steps stays on the CPU unless one kernel does it all
        counts = adapters.device if group.get("fused") or group.get("capturable") else CPU
        for name in names:
            if name in state["memory"]:
                optimizer.state[named[name]] = {
                    key: placed(value, counts if key == "step" else adapters.device)
                    for key, value in state["memory"][name].items()
                }
    optimizer.steps = state["steps"]
