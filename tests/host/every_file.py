"""LoRA files of every kind that the host loads, in every spelling of every family: what the host's
own loader makes of them, and what LoRA² makes of them.

`nox -s files` tries them all and prints the figures; tests/host/test_every_file.py tries a few.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import comfy.lora
import comfy.lora_convert
import comfy.sd
import comfy.utils
import comfy.weight_adapter
import safetensors.torch
import torch
from comfy.weight_adapter import BOFTAdapter, OFTAdapter
from torch import Tensor

from lora2_core.files.saving import FORMATS
from lora2_core.host.naming import is_weight, weight_keys, weight_of

NEAR = 1e-6  # of the largest value: what counts as equal to the host's own loader
SAME_UPDATE = 1e-4  # of its norm: what counts as not lost, after an SVD in fp32 and a file
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


def files(model, seed: int = 0) -> Iterator[tuple[str, str, dict[str, Tensor]]]:
    """(kind, spelling, tensors) of every file for a model; a file has several layers."""
    found = targets(model)
    for number, (what, make) in enumerate(KINDS.items()):
        for spelling, layers in found.items():
            g, tensors = torch.Generator().manual_seed(seed + number), {}
            for name, key, shape in layers:
                whole_only = what in (
                    "diff",
                    "set",
                    "pair under a diff",
                    "reshape",
                    "pair and bias",
                )
                if whole_only and not isinstance(key, str):
                    continue
                made = make(name, shape, g)
                tensors |= {} if made is None else made
            if tensors:
                yield what, spelling, {k: t.clone().contiguous() for k, t in tensors.items()}


def stock(path: Path, model, clip=None) -> dict[str, Tensor]:
    """Weight -> its patched value, by the host's own loader."""
    tensors = comfy.utils.load_torch_file(str(path), safe_load=True)
    patched, _ = comfy.sd.load_lora_for_models(model, clip, tensors, 1.0, 1.0)
    return weights(patched)


def weights(patcher) -> dict[str, Tensor]:
    """In fp64, so that what differs is not the rounding of the sums; the host computes OFT in fp32
    only.
    """
    state, single = patcher.model.state_dict(), (OFTAdapter, BOFTAdapter)

    def patched(key: str, patches: list) -> Tensor:
        dtype = torch.float32 if any(isinstance(p[1], single) for p in patches) else torch.float64
        weight = state[key].to(dtype, copy=True)
        return comfy.lora.calculate_weight(patches, weight, key, dtype).double()

    return {key: patched(key, patches) for key, patches in patcher.patches.items()}


def difference(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """The most that a weight differs, of its largest value; infinity where another is patched."""
    if ours.keys() != theirs.keys():
        return math.inf
    most = 0.0
    for key, wanted in theirs.items():
        if ours[key].shape != wanted.shape:
            return math.inf
        off = float((ours[key] - wanted).abs().max() / wanted.abs().max().clamp(min=1))
        most = max(most, off)
    return most


def lost(saved: dict[str, Tensor], source: dict[str, Tensor], model) -> list[str]:
    """The weights whose update is not that of the source file."""
    state, gone = model.model.state_dict(), []
    for key, wanted in source.items():
        before = state[key].double()
        update = wanted - before if wanted.shape == before.shape else wanted
        got = saved.get(key, before)
        now = got - before if got.shape == before.shape else got
        if now.shape != update.shape or (now - update).norm() > SAME_UPDATE * update.norm() + 1e-6:
            gone.append(key)
    return gone


@dataclass
class Tally:
    """What came out of files: how many were tried, equal, refused with a sentence, and wrong; and
    the kinds of which the host itself makes nothing.
    """

    tried: int = 0
    equal: int = 0
    refused: Counter = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    idle: set[str] = field(default_factory=set)

    def add(self, other: Tally) -> None:
        self.tried, self.equal = self.tried + other.tried, self.equal + other.equal
        self.refused += other.refused
        self.wrong += other.wrong
        self.idle |= other.idle

    def line(self) -> str:
        refused = sum(self.refused.values())
        return f"{self.tried} tried, {self.equal} equal, {refused} refused, {len(self.wrong)} wrong"


def changes(patched: dict[str, Tensor], model) -> dict[str, Tensor]:
    """The patched weights that are not what they were."""
    state = model.model.state_dict()
    return {k: v for k, v in patched.items() if not torch.equal(v, state[k].double())}


def compare_loaders(
    nodes: dict, model, folder: Path, family: str, tally: Tally, every=files
) -> None:
    """LoRA2Load at keep 1 against the host's own loader, on every file."""
    for what, spelling, tensors in every(model):
        path = folder / "every.safetensors"
        safetensors.torch.save_file(tensors, path)
        tally.tried += 1
        title = f"{family}, {what}, {spelling}"
        theirs = stock(path, model)
        try:
            ours = weights(nodes["LoRA2Load"].execute(model, path.name).result[0])
        except ValueError as error:
            if theirs and any(
                not torch.equal(theirs[k], model.model.state_dict()[k]) for k in theirs
            ):
                tally.wrong.append(f"{title}: refused: {error}")
            else:
                tally.refused[str(error).partition(":")[0]] += 1
            continue
        if not changes(theirs, model):
            tally.idle.add(what)
        if what.endswith("alpha 0"):  # an update of nothing is no patch here
            theirs = changes(theirs, model)
        if (off := difference(ours, theirs)) > NEAR:
            tally.wrong.append(f"{title}: differs by {off:.1e}")
        else:
            tally.equal += 1


def round_trips(nodes: dict, model, folder: Path, family: str, tally: Tally, every=files) -> None:
    """Load or Compress, then Save in every form, then the host's own loader: nothing may be lost
    without a sentence. UNets in the peft form are for diffusers: the host does not read these.
    """
    from lora2_core.host.naming import diffusers_paths

    unet = bool(diffusers_paths(model))
    for what, spelling, tensors in every(model):
        path = folder / "every.safetensors"
        safetensors.torch.save_file(tensors, path)
        source = stock(path, model)
        if not changes(source, model):
            tally.idle.add(what)  # ComfyUI itself makes nothing of it
            continue
        for how in ("Load", "Compress"):
            try:
                if how == "Load":
                    lora = nodes["LoRA2Load"].execute(model, path.name).result[2]
                else:
                    lora = nodes["LoRA2Compress"].execute(path.name, 0.0, 1e-6).result[0]
            except ValueError as error:
                tally.tried += 1
                tally.refused[f"{how}: {reason(error)}"] += 1
                continue
            for form in FORMATS:
                if unet and form == "peft":
                    continue
                tally.tried += 1
                try:
                    save = nodes["LoRA2Save"].execute(lora, "every/out", format=form, dtype="fp32")
                except ValueError as error:
                    tally.refused[f"{form}: {reason(error)}"] += 1
                    continue
                written = folder / save.result[0]
                if gone := lost(stock(written, model), source, model):
                    title = f"{family}, {what}, {spelling}, {how}, {form}"
                    tally.wrong.append(f"{title}: {len(gone)} of {len(source)} lost, {gone[0]}")
                else:
                    tally.equal += 1
                written.unlink()


def reason(error: ValueError) -> str:
    """A sentence without the names in it, so that equal ones are counted together."""
    return re.sub(r"layer \S+|Layer \S+|\S+\.safetensors|first: \S+|\d+", "…", str(error))[:90]


def extra_names(model) -> Iterator[tuple[str, dict[str, Tensor], str]]:
    """(name, file with a pair of this name, weight) of spellings that the host's loader does not
    read, and LoRA² does.
    """
    state, host = model.model.state_dict(), comfy.lora.model_lora_keys_unet(model.model, {})
    for name, key in weight_keys(model).items():
        if name not in host and isinstance(key, str) and key in state and state[key].ndim > 1:
            g = torch.Generator().manual_seed(0)
            yield name, pair(name, state[key].shape, g, PAIRS["kohya"]), key


def main() -> None:
    """Prints the figures for all families, or those that are named."""
    import asyncio
    import logging
    import sys

    import comfyui_lora2
    import folder_paths

    from lora2_core.host.playground import load_playground
    from lora2_core.playground import asset
    from tests.clients.shapes import FLUX
    from tests.host.flow_models import FAMILIES, build

    logging.disable(logging.CRITICAL)
    extension = asyncio.run(comfyui_lora2.comfy_entrypoint())
    nodes = {node.GET_SCHEMA().node_id: node for node in asyncio.run(extension.get_node_list())}
    folder = Path(folder_paths.get_folder_paths("loras")[0])
    folder.mkdir(parents=True, exist_ok=True)
    models = {
        "UNet": lambda: load_playground(asset.load())[0],
        "Flux of the real ratio": lambda: build(FLUX),
    }
    models |= {name: lambda name=name: build(name) for name in FAMILIES}
    loaded, kept = Tally(), Tally()
    with torch.inference_mode():
        for name in sys.argv[1:] or models:
            model = models[name]()
            for title, tally, measure in (
                ("LoRA2Load against ComfyUI", loaded, compare_loaders),
                ("Load or Compress, Save, ComfyUI", kept, round_trips),
            ):
                own = Tally()
                measure(nodes, model, folder, name, own)
                tally.add(own)
                print(f"{name}: {title}: {own.line()}", flush=True)
                for fault in own.wrong[:10]:
                    print(f"    {fault}")
    print(f"ComfyUI itself makes nothing of: {sorted(loaded.idle)}")
    print(f"all: LoRA2Load against ComfyUI's loader, to {NEAR:g}: {loaded.line()}")
    print(f"all: Load or Compress, Save in every form, ComfyUI's loader: {kept.line()}")
    for sentence, count in kept.refused.most_common():
        print(f"    {count} refused: {sentence}")
    raise SystemExit(bool(loaded.wrong or kept.wrong))


if __name__ == "__main__":
    main()
