"""Merges adapters of one model into one, layer by layer, at any size.

The sum of low-rank updates is one of the sum of their ranks: lora_up beside lora_up, lora_down
below lora_down. It is brought to its singular basis through small matrices (singular.py), so that
the sum is exact and no dense update is formed. TIES and DARE (conflicts.py) need the entries of the
updates: one layer at a time is dense, and decomposed. Then one global cut takes the positions that
the size or the error allows, as in compress.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..checks import check_choice, check_range
from ..units import BYTES_PER_PARAMETER, MEGABYTE
from .block_weights import BlockWeights
from .conflicts import METHODS, SUM, WAYS, Shares
from .dense import MOST_RANK, decomposed
from .gathering import Gathering, rank_with_room
from .lora import LoraLayer, RankedLora
from .model_order import of_text_encoder, order_key
from .other_kinds import OtherChange
from .slices import NEGLIGIBLE

# kinds of changes that add up entry by entry; of any other one, only one adapter may have it
ADDING = {".diff", ".diff_b", ".w_norm", ".b_norm"}


@dataclass(frozen=True)
class Source:
    """One of the adapters to merge, with its layers named as those of the others are.

    title: what the user knows it by. weight: its strength; weight_clip: that of the text encoders,
    where it differs. blocks: factors by block of the model. beyond: energy that its pairs lack, of
    changes that were made pairs.
    """

    title: str
    lora: RankedLora
    weight: float = 1.0
    weight_clip: float | None = None
    blocks: BlockWeights = BlockWeights()
    beyond: float = 0.0

    def weight_of(self, layer: str) -> float:
        """Returns the strength of a layer."""
        weight = self.weight
        if self.weight_clip is not None and of_text_encoder(layer):
            weight = self.weight_clip
        return weight * self.blocks.factor(layer)


@dataclass(frozen=True)
class MergeSettings:
    """Says how adapters are merged. density, seed: of `ties` and `dare`. budget_mb, tolerance: of
    the result, 0 for no limit; the budget goes before the tolerance.
    """

    method: str = SUM
    density: float = 0.5
    seed: int = 0
    budget_mb: float = 0.0
    tolerance: float = 0.0

    def __post_init__(self) -> None:
        check_choice("method", self.method, METHODS)
        check_range("density", self.density, 0.001, 1)
        check_range("budget_mb", self.budget_mb, 0, 1e6)
        check_range("tolerance", self.tolerance, 0, 0.999)


@dataclass
class Merged:
    """Holds the merged adapter, its relative error against the merge before the cut, the layers
    that several adapters have, and what TIES and DARE kept.
    """

    lora: RankedLora
    error: float
    common: int = 0
    full_mb: float = 0.0
    shares: Shares = field(default_factory=Shares)


def merge(
    sources: Sequence[Source],
    settings: MergeSettings = MergeSettings(),
    on_layer: Callable[[int, int], None] = lambda done, layers: None,
) -> Merged:
    """Returns adapters merged into one.

    on_layer: is called before each layer with how many are done, and how many there are; it may
    raise to stop. ValueError in one sentence where adapters have other shapes for one layer, or
    changes of kinds that don't add up.
    """
    if not sources:
        raise ValueError("There is no LoRA to merge: connect some, or a lora_stack.")
    names = sorted({n for s in sources for n in s.lora.layers}, key=order_key)
    gathered = Gathering(settings.budget_mb, others=merged_others(sources))
    out = Merged(RankedLora({}), 0.0)
    limit = most_rank(sources, names, settings)
    for done, name in enumerate(names):
        on_layer(done, len(names))
        parts = [(s, s.lora.layers[name]) for s in sources if name in s.lora.layers]
        check_shapes(name, parts)
        out.common += len(parts) > 1
        weighted = [(s.weight_of(name), layer) for s, layer in parts]
        if settings.method == SUM:
            layer, lost = summed(weighted), 0.0
        else:
            updates = [layer.delta() * w for w, layer in weighted if w]
            made = WAYS[settings.method](
                updates, settings.density, settings.seed, name, out.shares
            ) if updates else torch.zeros(weighted[0][1].delta().shape)  # fmt: skip
            layer, lost = decomposed(made, limit, torch.float32)
        out.full_mb += layer.rank * layer.cost * BYTES_PER_PARAMETER / MEGABYTE
        gathered.add(name, layer, lost)
    gathered.energy += sum(s.beyond * s.weight**2 for s in sources)
    out.lora, out.error = gathered.result(settings.tolerance)
    return out


def summed(parts: Sequence[tuple[float, LoraLayer]]) -> LoraLayer:
    """Returns the sum of updates of one weight, each times its factor, in its singular basis and
    without positions that are only rounding. No factor is left out as long as another one isn't 0.
    """
    used = [(weight, layer) for weight, layer in parts if weight and layer.rank]
    first = parts[0][1]
    kernel = next((layer.kernel for _, layer in parts if layer.kernel), None)
    if not used:
        return LoraLayer(first.up[:, :0], first.down[:0], kernel)
    up = torch.cat([layer.up.float() * weight for weight, layer in used], 1)
    down = torch.cat([layer.down.float() for _, layer in used])
    layer = LoraLayer(up, down, kernel).rotated()
    before = sum(float(layer.energy.sum()) * weight**2 for weight, layer in used)
    return layer.first(int((layer.energy > NEGLIGIBLE * before).sum()))


def check_shapes(name: str, parts: Sequence[tuple[Source, LoraLayer]]) -> None:
    """Raises ValueError unless all updates of a layer are for a weight of one shape."""
    (first, layer), *others = parts
    wanted = shape_of(layer)
    for source, other in others:
        if (found := shape_of(other)) != wanted:
            raise ValueError(
                f"Layer {name} is for a weight of {' x '.join(map(str, wanted))} in {first.title}, "
                f"and of {' x '.join(map(str, found))} in {source.title}: they belong to different "
                "models."
            )


def shape_of(layer: LoraLayer) -> tuple[int, int]:
    """Returns rows and columns of a layer's weight; those of a kernel count as columns, since some
    kinds don't say which they are.
    """
    return len(layer.up), layer.down.shape[1]


def most_rank(sources: Sequence[Source], names: Sequence[str], settings: MergeSettings) -> int:
    """Returns the rank that a dense layer may have before the cut."""
    if not settings.budget_mb:
        return MOST_RANK
    costs = {n: y.cost for s in sources for n, y in s.lora.layers.items()}
    return min(MOST_RANK, rank_with_room(settings.budget_mb, sum(costs.values())))


def merged_others(sources: Sequence[Source]) -> dict[str, OtherChange]:
    """Returns the changes that are no pairs: sums of biases, norms and the like, and others as they
    are where only one adapter changes that layer.
    """
    found: dict[str, OtherChange] = {}
    for name in dict.fromkeys(name for s in sources for name in s.lora.others):
        having = [s for s in sources if name in s.lora.others and s.weight_of(name)]
        adding = all(s.lora.others[name].tensors.keys() <= ADDING for s in having)
        if having and adding:
            found[name] = added(name, having)
        elif having:
            pairs = [s for s in sources if name in s.lora.layers and s not in having]
            check_alone(name, having, pairs)
            found[name] = having[0].lora.others[name]
    return found


def added(name: str, sources: Sequence[Source]) -> OtherChange:
    """Returns the sum of changes that add up, each times its weight."""
    total: dict[str, Tensor] = {}
    for source in sources:
        for ending, tensor in source.lora.others[name].tensors.items():
            part = tensor.float() * source.weight_of(name)
            if ending in total and total[ending].shape != part.shape:
                raise ValueError(
                    f"{name}{ending} has shape {list(part.shape)} in {source.title}, and "
                    f"{list(total[ending].shape)} in another LoRA: they belong to different models."
                )
            total[ending] = total[ending] + part if ending in total else part
    return OtherChange(total)


def check_alone(name: str, having: Sequence[Source], pairs: Sequence[Source]) -> None:
    """Raises ValueError unless a change that can't be added stands alone, with weight 1."""
    source = having[0]
    kind = source.lora.others[name].kind
    remedy = "connect model, so that it becomes a pair, or leave the file out"
    if len(having) > 1 or pairs:
        raise ValueError(
            f"{source.title}: layer {name} has a change of kind {kind}, which can't be added to "
            f"that of {(list(having[1:]) + list(pairs))[0].title}: {remedy}."
        )
    if source.weight_of(name) != 1:
        raise ValueError(
            f"{source.title}: layer {name} has a change of kind {kind}, which can't be scaled by "
            f"{source.weight_of(name):g}: {remedy}."
        )
