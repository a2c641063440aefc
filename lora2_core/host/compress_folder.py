"""Compresses all LoRAs of a folder, one after another. A file that can't be compressed is a row
with its reason, and the others go on.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath

import folder_paths

from ..adapter.compress import compress
from ..paths import quoted
from ..units import MEGABYTE
from .importance import ENERGY, importance_of
from .lora_files import lora_file, read_lora
from .store import check_prefix, write_under_loras

EVERYTHING = "."  # the loras folder itself, with all folders in it


@dataclass(frozen=True)
class Wanted:
    """Says what the files become: as in LoRA2 Compress and LoRA2 Save."""

    budget_mb: float = 0.0
    tolerance: float = 0.1
    importance: str = ENERGY
    form: str = "original"
    dtype: str = "fp16"


@dataclass(frozen=True)
class Row:
    """What became of a file: sizes in MB and the relative error, or the fault."""

    name: str
    before: float = 0.0
    after: float = 0.0
    error: float = 0.0
    written: str = ""
    fault: str = ""


def lora_folders() -> list[str]:
    """Returns the folders that have LoRAs, below the host's loras folders."""
    names = (name.replace("\\", "/") for name in folder_paths.get_filename_list("loras"))
    found = {str(parent) for name in names for parent in PurePosixPath(name).parents}
    return sorted(found | {EVERYTHING})


def files_of(folder: str, into: str) -> list[str]:
    """Returns the LoRAs in a folder and in those below it, without those that were made before;
    ValueError where there are none.

    into: the folder of the results.
    """
    names = [n.replace("\\", "/") for n in folder_paths.get_filename_list("loras")]
    inside = [n for n in names if folder == EVERYTHING or n.startswith(f"{folder}/")]
    found = [n for n in inside if not n.startswith(f"{into}/") and n.endswith(".safetensors")]
    if not found:
        raise ValueError(
            f"There are no .safetensors files in {quoted(folder)} of the loras folder: choose "
            "another folder (R renews the list)."
        )
    return found


def compress_folder(
    folder: str, into: str, wanted: Wanted, on_file: Callable[[int, int], None]
) -> list[Row]:
    """Compresses every LoRA of a folder, and returns a row for each.

    into: folder of the results, below the first loras folder. on_file: is called before each file
    with how many are done, and how many there are; it may raise to stop.
    """
    into = into.strip("/\\").replace("\\", "/")
    check_prefix(f"{into}/x")
    names, rows = files_of(folder, into), []
    for done, name in enumerate(names):
        on_file(done, len(names))
        try:
            rows.append(compressed(name, into, wanted))
        except (ValueError, OSError, RuntimeError, MemoryError) as error:
            rows.append(Row(name, fault=" ".join(str(error).split()) or type(error).__name__))
    return rows


def compressed(name: str, into: str, wanted: Wanted) -> Row:
    """Compresses one file, and returns its row."""
    before = os.stat(lora_file(name)).st_size / MEGABYTE
    lora = read_lora(name)
    smaller = compress(
        lora, budget_mb=wanted.budget_mb, tolerance=wanted.tolerance,
        importance=importance_of(lora, wanted.importance),
    )  # fmt: skip
    prefix = f"{into}/{PurePosixPath(name).with_suffix('')}"
    saved = write_under_loras(smaller, prefix, form=wanted.form, dtype=wanted.dtype)
    error = smaller.origin.run.settings["compressed"]["error"]
    return Row(name, before, saved.megabytes, error, saved.name)


def table(rows: list[Row]) -> str:
    """Returns the rows as a table in Markdown."""
    lines = ["| file | MB before | MB after | error | result |", "|---|---|---|---|---|"]
    for row in rows:
        name = row.name.replace("|", "\\|")
        if row.fault:
            lines.append(f"| {name} | | | | {row.fault.replace('|', chr(92) + '|')} |")
        else:
            lines.append(
                f"| {name} | {row.before:.2f} | {row.after:.2f} | {row.error:.3f} | "
                f"{row.written.replace('|', chr(92) + '|')} |"
            )
    return "\n".join(lines)


def summary(rows: list[Row]) -> str:
    """Returns lines of text for the node: the sums, and what failed."""
    good = [row for row in rows if not row.fault]
    before, after = sum(row.before for row in good), sum(row.after for row in good)
    lines = [f"{len(good)} of {len(rows)} files: {before:.1f} MB \u2192 {after:.1f} MB"]
    lines += [
        f"{row.name}: {row.before:.2f} \u2192 {row.after:.2f} MB, error {row.error:.3f}"
        for row in good
    ]
    return "\n".join(lines + [f"{row.name}: {row.fault}" for row in rows if row.fault])
