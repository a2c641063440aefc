"""LoRA files of every kind that the host loads, in every spelling of every family: what the host's
own loader makes of them, and what LoRA² makes of them.

tests/host/every_loader.py reads and saves them, tests/host/every_family.py does so for all families
(`nox -s files`), tests/host/test_every_file.py for a few.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

import comfy.lora
import comfy.weight_adapter
import torch
from torch import Tensor

from lora2_core.host.naming import is_weight, weight_keys, weight_of

# spelling -> what names of it look like
SPELLINGS = {
    "kohya of diffusers": r"lora_unet_(down_blocks|up_blocks|mid_block)",
    "kohya": r"lora_unet_",
    "OneTrainer": r"lora_transformer_",
    "LyCORIS": r"lycoris_",
    "first of diffusers": r"(unet\.)?(down_blocks|up_blocks|mid_block).*\.processor\.",
    "diffusers": r"transformer\.",
    "diffusers, UNet": r"unet\.",
    "PEFT": r"base_model\.model\.",
    "ComfyUI": r"diffusion_model\.",
    "bare": r"",
}
PAIRS = {
    "kohya": (".lora_up.weight", ".lora_down.weight"),
    "PEFT": (".lora_B.weight", ".lora_A.weight"),
    "PEFT, named": (".lora_B.default.weight", ".lora_A.default.weight"),
    "diffusers": (".lora.up.weight", ".lora.down.weight"),
    "first of diffusers": ("_lora.up.weight", "_lora.down.weight"),
    "Mochi": (".lora_B", ".lora_A"),
    "text": (".lora_linear_layer.up.weight", ".lora_linear_layer.down.weight"),
}
Make = Callable[[str, torch.Size, torch.Generator], dict[str, Tensor] | None]
KINDS: dict[str, Make] = {}


def kind(name: str) -> Callable[[Make], Make]:
    def add(make: Make) -> Make:
        KINDS[name] = make
        return make

    return add


def draw(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator) * 0.3


def pair(base: str, shape: torch.Size, g: torch.Generator, ends: tuple[str, str], rank: int = 3):
    out, fan, *sides = shape
    up = draw(g, out, rank, *[1] * len(sides))
    return {base + ends[0]: up, base + ends[1]: draw(g, rank, fan, *sides)}


def plain(ends: tuple[str, str], alpha: Tensor | None) -> Make:
    def make(base: str, shape: torch.Size, g: torch.Generator) -> dict[str, Tensor] | None:
        if len(shape) < 2:
            return None
        return pair(base, shape, g, ends) | ({f"{base}.alpha": alpha} if alpha is not None else {})

    return make


ALPHAS = {
    "": None, "alpha 1": torch.tensor(1.0), "alpha of int64": torch.tensor(2),
    "alpha of one dimension": torch.tensor([2.0]), "alpha 0": torch.tensor(0.0),
    "negative alpha": torch.tensor(-1.5),
}  # fmt: skip
for ending, both in PAIRS.items():
    for told, number in ALPHAS.items() if ending in ("kohya", "PEFT") else [("", None)]:
        KINDS[f"LoRA, {ending}{', ' if told else ''}{told}"] = plain(both, number)


@kind("LoRA, rank above the shape")
def high(base: str, shape: torch.Size, g: torch.Generator):
    least = min(shape[0], math.prod(shape[1:]))
    return None if len(shape) < 2 else pair(base, shape, g, PAIRS["kohya"], least + 5)


@kind("LoCon with mid weights")
def mid(base: str, shape: torch.Size, g: torch.Generator):
    if len(shape) != 4:
        return None
    found = pair(base, shape[:2] + (1, 1), g, PAIRS["kohya"])
    return found | {f"{base}.lora_mid.weight": draw(g, 3, 3, *shape[2:])}


@kind("LoHa")
def loha(base: str, shape: torch.Size, g: torch.Generator):
    if len(shape) < 2:
        return None
    columns, found = math.prod(shape[1:]), {f"{base}.alpha": torch.tensor(2.0)}
    for n in (1, 2):
        found[f"{base}.hada_w{n}_a"] = draw(g, shape[0], 3)
        found[f"{base}.hada_w{n}_b"] = draw(g, 3, columns)
    return found


@kind("LoHa of a kernel")
def tucker_loha(base: str, shape: torch.Size, g: torch.Generator):
    if len(shape) != 4:
        return None
    found = {}
    for n in (1, 2):
        found[f"{base}.hada_t{n}"] = draw(g, 3, 3, *shape[2:])
        found[f"{base}.hada_w{n}_a"] = draw(g, 3, shape[0])
        found[f"{base}.hada_w{n}_b"] = draw(g, 3, shape[1])
    return found


def factors(size: int) -> tuple[int, int]:
    small = next(n for n in range(math.isqrt(size), 0, -1) if size % n == 0)
    return small, size // small


@kind("LoKr")
def lokr(base: str, shape: torch.Size, g: torch.Generator):
    if len(shape) < 2:
        return None
    (a, c), (b, d) = factors(shape[0]), factors(shape[1])
    return {f"{base}.lokr_w1": draw(g, a, b), f"{base}.alpha": torch.tensor(2.0),
            f"{base}.lokr_w2_a": draw(g, c, 2),
            f"{base}.lokr_w2_b": draw(g, 2, d * math.prod(shape[2:]))}  # fmt: skip


@kind("LoKr, whole")
def whole_lokr(base: str, shape: torch.Size, g: torch.Generator):
    if len(shape) not in (2, 4):
        return None
    (a, c), (b, d) = factors(shape[0]), factors(shape[1])
    return {f"{base}.lokr_w1": draw(g, a, b), f"{base}.lokr_w2": draw(g, c, d, *shape[2:])}


@kind("LoKr of a kernel")
def tucker_lokr(base: str, shape: torch.Size, g: torch.Generator):
    if len(shape) != 4:
        return None
    (a, c), (b, d) = factors(shape[0]), factors(shape[1])
    return {f"{base}.lokr_w1_a": draw(g, a, 2), f"{base}.lokr_w1_b": draw(g, 2, b),
            f"{base}.lokr_t2": draw(g, 2, 2, *shape[2:]), f"{base}.lokr_w2_a": draw(g, 2, c),
            f"{base}.lokr_w2_b": draw(g, 2, d)}  # fmt: skip


@kind("GLoRA")
def glora(base: str, shape: torch.Size, g: torch.Generator):
    if len(shape) != 2:
        return None
    out, fan = shape
    return {f"{base}.a1.weight": draw(g, fan, 2), f"{base}.a2.weight": draw(g, 2, fan),
            f"{base}.b1.weight": draw(g, out, 2), f"{base}.b2.weight": draw(g, 2, fan)}  # fmt: skip


@kind("OFT")
def oft(base: str, shape: torch.Size, g: torch.Generator):
    small, _ = factors(shape[0])
    found = {f"{base}.oft_blocks": draw(g, shape[0] // small, small, small)}
    return None if len(shape) < 2 else found | {f"{base}.alpha": torch.tensor(0.5)}


@kind("BOFT")
def boft(base: str, shape: torch.Size, g: torch.Generator):
    if len(shape) < 2 or shape[0] % 8:
        return None
    blocks = draw(g, 2, shape[0] // 4, 4, 4)
    rescale = draw(g, shape[0], *[1] * (len(shape) - 1)) + 1
    return {f"{base}.oft_blocks": blocks, f"{base}.alpha": torch.tensor(0.5),
            f"{base}.rescale": rescale}  # fmt: skip


@kind("DoRA")
def dora(base: str, shape: torch.Size, g: torch.Generator):
    if len(shape) < 2:
        return None
    scale = draw(g, shape[0], *[1] * (len(shape) - 1)).abs() + 0.5
    return pair(base, shape, g, PAIRS["kohya"]) | {f"{base}.dora_scale": scale}


@kind("DoRA of the columns")
def column_dora(base: str, shape: torch.Size, g: torch.Generator):
    if len(shape) < 2:
        return None
    scale = draw(g, 1, shape[1], *[1] * (len(shape) - 2)).abs() + 0.5
    return pair(base, shape, g, PAIRS["PEFT"]) | {f"{base}.dora_scale": scale}


@kind("LoKr as a DoRA")
def lokr_dora(base: str, shape: torch.Size, g: torch.Generator):
    found = whole_lokr(base, shape, g)
    scale = draw(g, shape[0], *[1] * (len(shape) - 1)).abs() + 0.5
    return None if found is None else found | {f"{base}.dora_scale": scale}


@kind("diff")
def diff(base: str, shape: torch.Size, g: torch.Generator):
    return {f"{base}.diff": draw(g, *shape)}


@kind("pair and bias")
def bias(base: str, shape: torch.Size, g: torch.Generator):
    found = {f"{base}.diff_b": draw(g, shape[0])}
    return found | (pair(base, shape, g, PAIRS["kohya"]) if len(shape) > 1 else {})


@kind("pair under a diff")
def pair_and_diff(base: str, shape: torch.Size, g: torch.Generator):
    return None if len(shape) < 2 else pair(base, shape, g, PAIRS["kohya"]) | diff(base, shape, g)


@kind("norm")
def norm(base: str, shape: torch.Size, g: torch.Generator):
    if len(shape) != 1:
        return None
    return {f"{base}.w_norm": draw(g, *shape), f"{base}.b_norm": draw(g, *shape)}


@kind("set")
def set_weight(base: str, shape: torch.Size, g: torch.Generator):
    return {f"{base}.set_weight": draw(g, *shape)}


@kind("reshape")
def reshape(base: str, shape: torch.Size, g: torch.Generator):
    if len(shape) != 2:
        return None
    grown = torch.Size((shape[0], shape[1] + 4))
    return pair(base, grown, g, PAIRS["PEFT"]) | {f"{base}.reshape_weight": torch.tensor(grown)}


@kind("pair beside what no loader reads")
def extras(base: str, shape: torch.Size, g: torch.Generator):
    if len(shape) < 2:
        return None
    more = {"bundle_emb.owl.clip_l": draw(g, 2, 8), f"{base}.magnitude": draw(g, shape[0])}
    return pair(base, shape, g, PAIRS["PEFT"]) | more


def trained(name: str) -> Make:
    """As the host's own Train LoRA makes a layer of this kind."""

    def make(base: str, shape: torch.Size, g: torch.Generator) -> dict[str, Tensor] | None:
        if len(shape) < 2:
            return None
        adapter = comfy.weight_adapter.adapter_maps[name].create_train(torch.zeros(shape), 4, 1.0)
        state = {f"{base}.{key}": value.detach() for key, value in adapter.state_dict().items()}
        return {key: draw(g, *t.shape) if t.ndim else t for key, t in state.items()}

    return make


for method in comfy.weight_adapter.adapter_maps:
    KINDS[f"{method} of the host's trainer"] = trained(method)


def spelling_of(name: str) -> str:
    return next(s for s, pattern in SPELLINGS.items() if re.match(pattern, name))


def targets(model, count: int = 2) -> dict[str, list[tuple[str, object, torch.Size]]]:
    """spelling -> some (name, key, shape) of it that the host reads, of different shapes: slices,
    convolutions and norms among them.
    """
    state = model.model.state_dict()
    keys = comfy.lora.model_lora_keys_unet(model.model, {})
    # weights of which the host's table has other slices than this small model
    odd = {
        k[0] for k in keys.values()
        if not isinstance(k, str) and k[1] and k[0] in state and sum(k[1][1:]) > len(state[k[0]])
    }  # fmt: skip
    found: dict[str, list] = {}
    seen: Counter = Counter()
    for name, key in keys.items():
        weight = state.get(weight_of(key))
        if weight is None or not is_weight(key) or weight.ndim == 0:
            continue
        shape = list(weight.shape)
        if not isinstance(key, str) and key[1] is not None:
            if weight_of(key) in odd:
                continue
            shape[0] = key[1][2]
        sort = (spelling_of(name), len(shape), isinstance(key, str), shape[0])
        if (seen[sort] < 1 or (len(shape) == 2 and seen[sort] < 2)) and seen[sort[:3]] < count:
            seen[sort] += 1
            seen[sort[:3]] += 1
            found.setdefault(sort[0], []).append((name, key, torch.Size(shape)))
    return found


# kinds that change more than the rows of a slice, or its bias
WHOLE_ONLY = (
    "diff",
    "set",
    "pair under a diff",
    "reshape",
    "pair and bias",
    "full of lycoris-lora",
)


def files(
    model, kinds: Mapping[str, Make] = KINDS, seed: int = 0
) -> Iterator[tuple[str, str, dict[str, Tensor]]]:
    """(kind, spelling, tensors) of every file for a model; a file has several layers."""
    found = targets(model)
    for number, (what, make) in enumerate(kinds.items()):
        for spelling, layers in found.items():
            g, tensors = torch.Generator().manual_seed(seed + number), {}
            for name, key, shape in layers:
                if what in WHOLE_ONLY and not isinstance(key, str):
                    continue
                made = make(name, shape, g)
                tensors |= {} if made is None else made
            if tensors:
                yield what, spelling, {k: t.clone().contiguous() for k, t in tensors.items()}


def extra_names(model) -> Iterator[tuple[str, dict[str, Tensor], str]]:
    """(name, file with a pair of this name, weight) of spellings that the host's loader does not
    read, and LoRA² does.
    """
    state, host = model.model.state_dict(), comfy.lora.model_lora_keys_unet(model.model, {})
    for name, key in weight_keys(model).items():
        if name not in host and isinstance(key, str) and key in state and state[key].ndim > 1:
            g = torch.Generator().manual_seed(0)
            yield name, pair(name, state[key].shape, g, PAIRS["kohya"]), key
