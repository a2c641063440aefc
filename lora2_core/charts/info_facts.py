"""What a LoRA file is made of, in lines: which model it is for, how it names its layers, what can
be cut, which layers it names twice; and a table of the changes that are no low-rank pairs.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from ..adapter.dense import alpha_of
from ..adapter.doubles import named_twice
from ..adapter.lora import RankedLora
from ..adapter.other_kinds import OtherChange, pair_size, size_of
from ..adapter.recognised import recognised
from ..files.tensor_file import shown

MOST_TWICE = 4  # layers that are named twice and listed
ALONE, WITH_MODEL = ("LoHa", "LoKr", "diff"), ("DoRA", "OFT", "GLoRA")  # what Compress can cut
# spelling -> what names of it look like; the first that fits
SPELLINGS = {
    "kohya, diffusers' blocks": r"lora_unet_(down_blocks|up_blocks|mid_block)",
    "kohya": r"lora_(?!transformer_)", "OneTrainer": r"lora_transformer_",
    "LyCORIS": r"lycoris_",
    "diffusers, first form": r".*\.processor\.",
    "diffusers": r"(unet|transformer|text_encoder(_\d)?)\.",
    "PEFT": r"base_model\.model\.", "ComfyUI": r"(diffusion_model|text_encoders)\.",
}  # fmt: skip
BARE = "module paths alone"


def made_of(lora: RankedLora) -> list[str]:
    """Returns the lines; none on what the adapter doesn't show."""
    lines = []
    if model := recognised(lora):
        lines.append(f"model, by its layers: {model}")
    if names := spelled(base_names(lora)):
        lines.append(f"names: {names}")
    lines += cuttable(lora)
    twice = named_twice(lora)
    for one, other in twice[:MOST_TWICE]:
        lines.append(f"named twice: {shown(one)} and {shown(other)}")
    if len(twice) > MOST_TWICE:
        lines.append(f"named twice: {len(twice) - MOST_TWICE} more")
    return lines


def base_names(lora: RankedLora) -> list[str]:
    """Returns the keys by which the layers stand in their file; [] for one that comes from none."""
    return list(lora.origin.file.keys.values())


def spelled(keys: Iterable[str]) -> str:
    """Returns how many keys have which spelling."""
    counts = Counter(
        next((s for s, pattern in SPELLINGS.items() if re.match(pattern, key)), BARE)
        for key in keys
    )
    return ", ".join(f"{spelling} ({count})" for spelling, count in counts.most_common())


def cuttable(lora: RankedLora) -> list[str]:
    """Returns what can be cut: pairs by every node, other kinds by LoRA² Compress, or not."""
    if not lora.others:
        return []
    groups: dict[str, Counter] = defaultdict(Counter)
    for name, change in lora.others.items():
        groups[how_cut(change, name in lora.layers)][change.kind] += 1
    said = [f"{len(lora.layers)} pairs"] if lora.layers else []
    for how in ("by LoRA\u00b2 Compress", "by LoRA\u00b2 Compress with model", "not"):
        if kinds := groups.get(how):
            said.append(f"{how}: {', '.join(f'{n} {kind}' for kind, n in kinds.most_common())}")
    return [f"can be cut: {'; '.join(said)}"]


def how_cut(change: OtherChange, beside_a_pair: bool) -> str:
    """Returns by what a change can be cut."""
    if beside_a_pair:
        return "not"
    flat = ".diff" in change.tensors and change.tensors[".diff"].ndim < 2
    if change.kind in ALONE and not flat and pair_size(change.shapes) is None:
        return "by LoRA\u00b2 Compress"
    return "by LoRA\u00b2 Compress with model" if change.kind in WITH_MODEL else "not"


def other_table(lora: RankedLora) -> str:
    """Returns a table in Markdown of the changes that are no pairs, "" where there are none. The
    norm is that of the update, where it doesn't depend on the base model.
    """
    if not lora.others:
        return ""
    lines = ["", "", "| layer | kind | size | norm | bytes |", "|---|---|---|--:|--:|"]
    for name, change in lora.others.items():
        size = size_of(change.shapes)
        norm = norm_of(change)
        cells = [
            " ".join(name.replace("|", " ").split()), change.kind,
            f"{size[0]} x {size[1]}" if size else "",
            "" if norm is None else f"{norm:.4g}", str(change.bytes),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def norm_of(change: OtherChange) -> float | None:
    """Returns the Frobenius norm of a change, None where it depends on the base model's weights."""
    tensors = {ending: t.float() for ending, t in change.tensors.items()}
    one = {"diff": ".diff", "norm": ".w_norm", "bias": ".diff_b"}.get(change.kind)
    if one is not None:
        return float(tensors[one].double().norm())
    if change.kind == "LoKr":
        return lokr_norm(tensors)
    if change.kind == "LoHa" and ".hada_t1" not in tensors:
        first, second = (tensors[f".hada_w{n}_a"] @ tensors[f".hada_w{n}_b"] for n in (1, 2))
        scale = alpha_of(tensors, len(tensors[".hada_w1_b"]))
        return float((first * second).double().norm()) * abs(scale)
    return None


def lokr_norm(tensors: Mapping[str, Tensor]) -> float | None:
    """Returns the norm of a Kronecker product: the product of the norms of both factors."""
    if ".lokr_t2" in tensors:
        return None
    norm, rank = 1.0, None
    for n in (1, 2):
        whole = tensors.get(f".lokr_w{n}")
        if whole is None:
            a, b = tensors[f".lokr_w{n}_a"], tensors[f".lokr_w{n}_b"]
            whole, rank = torch.matmul(a, b), len(b)
        norm *= float(whole.double().norm())
    return norm * abs(alpha_of(tensors, rank))
