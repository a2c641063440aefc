"""Writes adapter files: .safetensors that any loader reads as an ordinary LoRA, and LoRA² as one
with learned ranks.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from ..adapter.expressing import expressed
from ..adapter.lora import LoraLayer, RankedLora
from ..adapter.names import split_key
from ..atomic import write_atomic
from ..checks import check_choice, check_range
from ..units import MEGABYTE
from .checksums import KEY as CHECKS
from .checksums import written
from .eight_bits import FP8, alpha_for
from .metadata import run_entries
from .own_metadata import common_alpha, own_entries
from .peft_metadata import KEY as PEFT_METADATA
from .peft_metadata import peft_metadata
from .seal import EMPTY, KEY, payload_of, sealed
from .tensor_file import parse

LEGACY = slice(0x100000, 0x110000)  # bytes of a file that kohya's legacy hash covers
DTYPES = {
    "fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32, "fp8": FP8,
}  # fmt: skip
FORMATS = ("kohya", "peft", "uniform", "original", "comfy", "nunchaku")
PAIRS_ONLY = ("peft", "uniform", "nunchaku")  # forms whose readers take no other kinds of changes
PEFT_PARTS = ("unet.", "transformer.", "text_encoder.", "text_encoder_2.")


@dataclass(frozen=True)
class Keys:
    """Holds the endings of the keys of a low-rank pair in a file, and whether it has an alpha."""

    up: str = ".lora_up.weight"
    down: str = ".lora_down.weight"
    alpha: bool = True

    @classmethod
    def like(cls, key: str) -> Keys:
        """Returns the endings in a file where a lora_up has this key."""
        base, role = split_key(key) or ("", "")
        up = key[len(base) :]
        if role != "up" or up == cls.up:  # a change of another kind became a pair
            return cls()
        return cls(up, up.replace("lora_B", "lora_A").replace("up", "down"), alpha=False)


PEFT_KEYS = Keys(".lora_B.weight", ".lora_A.weight", alpha=False)


def keys_of(lora: RankedLora, name: str, form: str) -> Keys:
    """Returns the endings of a layer's keys in a form of file."""
    if form == "original":
        return Keys.like(lora.origin.file.keys.get(name, "x.lora_up.weight"))
    return PEFT_KEYS if form in ("peft", "comfy", "nunchaku") else Keys()


def to_tensors(
    lora: RankedLora, bases: Mapping[str, str], form: str, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Returns the tensors of a file by key. A layer of rank 0 has none. All alphas are one number;
    without an alpha, the scale is 1, which fp8 can't do with: ValueError.

    bases: layer -> its name in the file. form: as for `save`.
    """
    out: dict[str, Tensor] = {}
    widths = padded_ranks(lora, bases, form)
    ranks = {name: widths.get(name, rank) for name, rank in lora.ranks.items()}
    if dtype == FP8:
        common = alpha_for((ranks[name], largest_of(layer)) for name, layer in lora.layers.items())
    else:
        common = common_alpha(ranks.values())
    for name, layer in lora.layers.items():
        rank, base, keys = ranks[name], bases.get(name), keys_of(lora, name, form)
        if rank == 0 or base is None:
            continue
        up, down = layer.file_tensors()
        if dtype == FP8:
            if not keys.alpha:
                raise ValueError(
                    f"fp8 needs a scale in the file, which the {form} format has none for: save as "
                    "kohya, or choose another dtype."
                )
            up, down = (t * math.sqrt(rank / common) for t in (up, down))
        elif keys.alpha and common != rank:
            up = up * (rank / common)
        up, down = (t.to(dtype).contiguous() for t in (up, down))
        if not all(bool(t.float().isfinite().all()) for t in (up, down)):
            raise ValueError(
                f"Layer {name} has values that {dtype} can't hold: save as fp32, or train again."
            )
        if grow := rank - layer.rank:
            down, up = padded(down, 0, grow), padded(up, 1, grow)
        out[base + keys.down], out[base + keys.up] = down, up
        if keys.alpha:
            out[f"{base}.alpha"] = torch.tensor(common)
    for name, change in lora.others.items():
        if form in PAIRS_ONLY:
            raise ValueError(
                f"The {form} format holds low-rank pairs only, but layer {name} has a change of "
                f"kind {change.kind}: save as kohya or original, or make it a pair with LoRA2 "
                "Compress first."
            )
        out |= {bases[name] + ending: tensor for ending, tensor in change.tensors.items()}
    if not out:
        raise ValueError(
            "The adapter is empty: every layer has rank 0. Allow more MB or a larger keep."
        )
    return out


def largest_of(layer: LoraLayer) -> float:
    """Returns the largest magnitude in lora_up and lora_down of a layer; 0 at rank 0."""
    return max((float(t.abs().max()) for t in (layer.up, layer.down) if t.numel()), default=0.0)


def padded(tensor: Tensor, side: int, count: int) -> Tensor:
    """Returns a tensor with so many zeros behind it along a side."""
    shape = [count if i == side else length for i, length in enumerate(tensor.shape)]
    return torch.cat([tensor, tensor.new_zeros(shape)], side)


def padded_ranks(lora: RankedLora, bases: Mapping[str, str], form: str) -> dict[str, int]:
    """Returns layer -> the rank that zeros bring it to; {} for forms without padding."""
    ranks = lora.ranks
    if form == "uniform":
        widest = max(ranks.values(), default=0)
        return {name: widest if rank else 0 for name, rank in ranks.items()}
    if form != "nunchaku":
        return {}
    group = {name: re.sub(r"(to|add)_[qkv](_proj)?$", r"\1_qkv", bases[name]) for name in ranks}
    widest_of: dict[str, int] = {}
    for name, rank in ranks.items():
        widest_of[group[name]] = max(rank, widest_of.get(group[name], 1))
    return {name: widest_of[group[name]] for name in ranks}


def serialise(tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    """Returns the bytes of a file. The metadata get the payload's hashes, checksums of all parts,
    and the seal over the header.
    """
    plain = safetensors.torch.save(tensors)
    payload = payload_of(plain)
    digest = hashlib.sha256(payload).hexdigest()
    legacy = hashlib.sha256(plain[LEGACY]).hexdigest()[:8]
    hashes = {
        "sshs_model_hash": digest,
        "sshs_legacy_hash": legacy,
        "modelspec.hash_sha256": f"0x{digest}",
    }
    metadata = metadata | hashes
    entries = parse(plain[: len(plain) - len(payload)], len(plain), "The file").entries
    own = {CHECKS: written(entries, payload, digest, metadata), KEY: EMPTY}
    return sealed(safetensors.torch.save(tensors, metadata | own))


def encode(
    lora: RankedLora,
    title: str,
    form: str,
    dtype: str,
    diffusers: Mapping[str, str],
    *,
    sure: bool = False,
) -> bytes:
    """Returns the bytes of an adapter's file at its present size.

    title: name of the file without its ending. form, dtype, diffusers, sure: as for `save`.
    """
    out = expressed(lora, form, diffusers, sure=sure)
    lora, bases = out.lora, out.bases
    if not lora.singular:
        lora = lora.rotated()
    tensors = to_tensors(lora, bases, form, DTYPES[dtype])
    metadata = run_entries(lora, title) | own_entries(lora, bases)
    written = {n: b for n, b in bases.items() if b + PEFT_KEYS.up in tensors}
    if any(base.startswith(PEFT_PARTS) for base in written.values()):
        metadata[PEFT_METADATA] = peft_metadata(lora, written)
    return serialise(tensors, metadata)


def save(
    path: str | Path,
    lora: RankedLora,
    *,
    form: str = "kohya",
    dtype: str = "fp16",
    max_mb: float = 0.0,
    diffusers: Mapping[str, str] | None = None,
    sure: bool = False,
) -> RankedLora:
    """Writes an adapter file atomically and returns the adapter that was written.

    form: `kohya`; `peft`, for diffusers; `uniform`, kohya padded with zeros to one rank;
        `original`, as in the file that the adapter came from; `comfy`, as ComfyUI names its layers;
        `nunchaku`.
    dtype: `fp16`, `bf16`, `fp32` or `fp8`, of which two weights take the bytes of one in fp16.
    max_mb: above 0, the adapter is cut until the file has at most so many MB (1e6 bytes).
    diffusers: module path -> diffusers' path, used when it has every layer.
    sure: refuse a name from a file of another program that the form may not have, where the model
        isn't known. Else it is changed as if the model were a plain module.

    ValueError for bad choices or an empty adapter, OSError from the disk.
    """
    check_choice("format", form, FORMATS)
    check_choice("dtype", dtype, tuple(DTYPES))
    check_range("max_mb", max_mb, 0, 1e6)
    path = Path(path)
    if not lora.singular:
        lora = lora.rotated()
    data = encode(lora, path.stem, form, dtype, diffusers or {}, sure=sure)
    limit = max_mb * MEGABYTE
    # in several cuts, since header and padding shrink as well
    while max_mb > 0 and len(data) > limit:
        lora = lora.within(min(lora.parameters - 1, lora.parameters * limit / len(data)))
        data = encode(lora, path.stem, form, dtype, diffusers or {}, sure=sure)
    write_atomic(path, data)
    return lora
