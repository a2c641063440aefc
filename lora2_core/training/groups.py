"""The trained parameters by names that are the same in every run, and the groups of them that have
a learning rate of their own.
"""

from __future__ import annotations

from torch import nn

from ..layers.adapters import Adapters

UP, DOWN = "lora_up", "lora_down"


def parameters_of(adapters: Adapters) -> dict[str, nn.Parameter]:
    """Returns every trained parameter by its name: the rates nu, lora_up and lora_down of each
    layer.
    """
    named = {"rates": adapters.rate_parameter}
    for name, component in adapters.components.items():
        named |= {f"{UP}/{name}": component.lora_up, f"{DOWN}/{name}": component.lora_down}
    return named


def groups_of(adapters: Adapters, up_ratio: float = 1.0) -> dict[float, list[str]]:
    """Returns the names of lora_up and lora_down of all layers by their factor of the learning
    rate: that of the layer, and `up_ratio` times it for lora_up (LoRA+, arXiv 2402.12354).
    """
    groups: dict[float, list[str]] = {}
    for name in adapters.components:
        speed = adapters.speeds.get(name, 1.0)
        groups.setdefault(speed * up_ratio, []).append(f"{UP}/{name}")
        groups.setdefault(speed, []).append(f"{DOWN}/{name}")
    return groups
