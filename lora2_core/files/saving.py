"""Writes adapter files: .safetensors that any loader reads as an ordinary LoRA, and LoRA² as one
with learned ranks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from ..adapter.lora import RankedLora
from ..adapter.names import complete_map, kohya_name, peft_name
from ..atomic import write_atomic
from ..checks import check_choice, check_range
from ..units import MEGABYTE
from .checksums import KEY as CHECKS
from .checksums import written
from .metadata import run_entries
from .own_metadata import own_entries
from .peft_metadata import peft_metadata
from .seal import EMPTY, KEY, payload_of, sealed
from .tensor_file import parse

LEGACY = slice(0x100000, 0x110000)  # bytes of a file that kohya's legacy hash covers
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
FORMATS = ("kohya", "peft", "uniform")


def to_tensors(
    lora: RankedLora, bases: Mapping[str, str], form: str, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Returns the tensors of a file by key. A layer of rank 0 has none. Every alpha equals the
    rank, so that the scale is 1 in every loader.

    bases: layer -> its name in the file. form: as for `save`.
    """
    out: dict[str, Tensor] = {}
    widest = max(lora.ranks.values(), default=0)
    for name, layer in lora.layers.items():
        if layer.rank == 0:
            continue
        up, down = (t.to(dtype).contiguous() for t in layer.file_tensors())
        if not (torch.isfinite(up).all() and torch.isfinite(down).all()):
            raise ValueError(
                f"Layer {name} has values that {dtype} can't hold: save as fp32, or train again."
            )
        base, rank = bases[name], layer.rank
        if form == "peft":
            out[f"{base}.lora_A.weight"], out[f"{base}.lora_B.weight"] = down, up
            continue
        if form == "uniform":
            grow, rank = widest - rank, widest
            down = torch.cat([down, down.new_zeros(grow, *down.shape[1:])])
            up = torch.cat([up, up.new_zeros(up.shape[0], grow, *up.shape[2:])], 1)
        out[f"{base}.lora_down.weight"], out[f"{base}.lora_up.weight"] = down, up
        out[f"{base}.alpha"] = torch.tensor(float(rank))
    for name, change in lora.others.items():
        out |= {bases[name] + ending: tensor for ending, tensor in change.tensors.items()}
    if not out:
        raise ValueError(
            "The adapter is empty: every layer has rank 0. Allow more MB or a larger keep."
        )
    return out


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
    lora: RankedLora, title: str, form: str, dtype: str, diffusers: Mapping[str, str]
) -> bytes:
    """Returns the bytes of an adapter's file at its present size.

    title: name of the file without its ending. form, dtype, diffusers: as for `save`.
    """
    names = [*lora.layers, *(name for name in lora.others if name not in lora.layers)]
    paths = complete_map(names, diffusers)
    if form == "peft":
        bases = {name: peft_name(name, paths, lora.origin.base.part) for name in names}
    else:
        bases = {name: kohya_name(name, paths) for name in names}
    metadata = run_entries(lora, title) | own_entries(lora, bases)
    if form == "peft":
        metadata["lora_adapter_metadata"] = peft_metadata(lora, bases)
    return serialise(to_tensors(lora, bases, form, DTYPES[dtype]), metadata)


def save(
    path: str | Path,
    lora: RankedLora,
    *,
    form: str = "kohya",
    dtype: str = "fp16",
    max_mb: float = 0.0,
    diffusers: Mapping[str, str] | None = None,
) -> RankedLora:
    """Writes an adapter file atomically and returns the adapter that was written.

    form: `kohya`, `peft`, or `uniform`: kohya padded with zeros to one rank.
    dtype: `fp16`, `bf16` or `fp32`.
    max_mb: above 0, the adapter is cut until the file has at most so many MB (1e6 bytes).
    diffusers: module path -> diffusers' path, used when it has every layer.

    ValueError for bad choices or an empty adapter, OSError from the disk.
    """
    check_choice("format", form, FORMATS)
    check_choice("dtype", dtype, tuple(DTYPES))
    check_range("max_mb", max_mb, 0, 1e6)
    path = Path(path)
    if not lora.singular:
        lora = lora.rotated()
    data = encode(lora, path.stem, form, dtype, diffusers or {})
    limit = max_mb * MEGABYTE
    # in several cuts, since header and padding shrink as well
    while max_mb > 0 and len(data) > limit:
        lora = lora.within(min(lora.parameters - 1, lora.parameters * limit / len(data)))
        data = encode(lora, path.stem, form, dtype, diffusers or {})
    write_atomic(path, data)
    return lora
