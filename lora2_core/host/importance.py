"""How much the energy of each layer of an adapter counts when it is compressed."""

from __future__ import annotations

from statistics import median

from ..adapter.lora import RankedLora
from .apply import file_of, resolve
from .naming import weight_of
from .weights import values_of

ENERGY, RELATIVE, LOSS = "energy", "relative", "loss"
IMPORTANCE = (ENERGY, RELATIVE, LOSS)


def importance_of(lora: RankedLora, kind: str, model=None) -> dict[str, float]:
    """Returns layer -> how much its energy counts; {} where all count the same.

    kind: ENERGY: all the same, for the least error of the update. RELATIVE: by 1 / |W|^2 of the
    base weight W, for the least change of the model's weights in proportion. LOSS: by the
    sensitivity of the loss, which an adaptive training of LoRA2 stores. lora: with its layers named
    as in the model, where one is given.

    ValueError in one sentence where what the kind needs isn't there.
    """
    if kind == LOSS:
        sensitivity = lora.origin.learned.sensitivity
        if not sensitivity:
            raise ValueError(
                f"{file_of(lora)}importance is loss, but the LoRA doesn't store how its loss "
                "depends on each layer, as adaptive trainings of LoRA2 do: choose energy."
            )
        return dict(sensitivity)
    if kind == ENERGY:
        return {}
    if model is None:
        raise ValueError("importance is relative, which needs the base weights: connect model.")
    found = {}
    for name, key in resolve(lora, model).items():
        weight = values_of(model, weight_of(key))
        if weight is None:
            continue
        if not isinstance(key, str) and key[1] is not None:
            weight = weight.narrow(*key[1])
        if size := float(weight.square().sum()):
            found[name] = 1 / size
    middle = median(found.values()) if found else 1.0
    return {name: found.get(name, middle) / middle for name in {*lora.layers, *lora.others}}
