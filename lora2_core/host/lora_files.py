"""Files of the loras folders, by the names that the host lists."""

from __future__ import annotations

from dataclasses import replace

from comfy.lora_convert import convert_lora

from ..adapter.lora import RankedLora
from ..files.loading import load
from ..paths import quoted
from .families import family_names
from .store import lora_path, no_loras


def lora_file(name: str | None) -> str:
    """Returns the full path of a file. Raises ValueError where there is none of that name."""
    if (path := lora_path(name)) is None:
        raise ValueError(missing_lora(name))
    return str(path)


def read_lora(name: str | None) -> RankedLora:
    """Returns the adapter in a file. Its info names the file."""
    lora = load(lora_file(name), convert=convert_lora)
    file = replace(lora.origin.file, name=name)
    base = replace(lora.origin.base, names=family_names(lora))
    return replace(lora, origin=replace(lora.origin, file=file, base=base))


def missing_lora(name: str | None) -> str:
    """Returns the sentence for a file that is not there: what to do."""
    if name in (None, "") and no_loras():
        return (
            "The loras folder is empty: train a LoRA and keep it with LoRA2 Save, or put a file "
            "there; then press R."
        )
    return (
        f"There is no file {quoted(name)} in the loras folder: choose one from the list (R renews "
        "it)."
    )


def file_state(name: str | None) -> str:
    """Returns a text that changes when the file does, so that the host runs the node again."""
    path = lora_path(name)
    return f"{name} {path.stat().st_mtime_ns}" if path else str(name)
