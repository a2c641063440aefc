"""The places where a workflow gives a name: what figure 14 knocks at."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import folder_paths

from lora2_core import RankedLora
from lora2_core.adapter.origin import Origin, RunFacts
from lora2_core.dataset.folder import check_folder, scan
from lora2_core.dataset.walking import state
from lora2_core.host.output import numbered_files
from lora2_core.host.store import loras_folder, save_under_loras
from lora2_core.host.training.checkpoint_files import checkpoints_folder, file_of, folder_for
from tests.hosting.inprocess import REPOSITORY
from tests.reliability.figures import Figure
from tests.reliability.hostile import Watch, traps, try_names, written_through
from tests.toys import random_lora

SMALL = {"diffusion_model.out.2": (4, 72, 2, (3, 3))}


def told() -> RankedLora:
    """A small adapter with a history, for reports."""
    history = {"loss": [1.0, 0.5], "mean_rank": [2.0, 2.0]}
    return replace(random_lora(SMALL).rotated(), origin=Origin(run=RunFacts(history=history)))


def doors(nodes: dict) -> dict[str, Callable[[object], object]]:
    """Name -> what takes it. A text that comes back is a sentence that refuses."""
    lora = told()

    def pictures(name: object) -> object:
        folder = check_folder(folder_paths.get_input_directory(), name)
        state(folder)
        return scan(folder)

    def previews(name: object) -> object:
        folder, start = numbered_files(name)
        return (folder / f"{start}.png").write_bytes(b"")

    return {
        "Save": lambda name: nodes["LoRA2Save"].execute(lora, name),
        "Save, before": lambda name: nodes["LoRA2Save"].validate_inputs(filename_prefix=name),
        "save": lambda name: save_under_loras(lora, name, form="kohya"),
        "Load": lambda name: nodes["LoRA2Info"].execute(name if name else 0),
        "Load, before": lambda name: nodes["LoRA2Load"].validate_inputs(lora_name=name or 0),
        "Load, state": lambda name: (nodes["LoRA2Load"].fingerprint_inputs(lora_name=name),),
        "Info, sidecar": lambda name: nodes["LoRA2Info"].execute(name if name else 0, sidecar=True),
        "Compress": lambda name: nodes["LoRA2Compress"].execute(name),
        "folder": lambda name: nodes["LoRA2CompressFolder"].execute(name, "lora2/smaller"),
        "folder of results": lambda name: nodes["LoRA2CompressFolder"].execute("none", name),
        "Merge": lambda name: nodes["LoRA2Merge"].execute(loras={"lora_1": name}),
        "stack": lambda name: nodes["LoRA2Merge"].execute(lora_stack=[(name, 1.0, 1.0)]),
        "Extract": lambda name: nodes["LoRA2Extract"].execute(model_file=name, base_file=name),
        "Extract, below": lambda name: nodes["LoRA2Extract"].execute(
            model_file=f"checkpoints/{name}", base_file=f"checkpoints/{name}"
        ),
        "Extract, state": lambda name: (nodes["LoRA2Extract"].fingerprint_inputs(name, name),),
        "report": lambda name: nodes["LoRA2Report"].execute(lora, filename_prefix=name, save=True),
        "report beside": lambda name: nodes["LoRA2Report"].execute(
            lora, lora_name=name, save=True, filename_prefix="lora2/x"
        ),
        "preview": previews,
        "checkpoints": folder_for,
        "resume": file_of,
        "dataset": pictures,
        "dataset, before": lambda name: nodes["LoRA2Dataset"].validate_inputs(folder=name or 0),
    }


def figure_14(nodes: dict, count: int, seed: int, cheap: bool = True) -> Figure:
    """cheap: without the doors that draw a page for every name they take."""
    linked = Path(tempfile.mkdtemp(prefix="lora2-linked-"))
    secret = Path(tempfile.mkdtemp(prefix="lora2-secret-"))
    roots = [loras_folder(), checkpoints_folder(), Path(folder_paths.get_input_directory()),
             Path(folder_paths.get_output_directory())]  # fmt: skip
    for root in roots:
        traps(root, linked, secret)
    found = doors(nodes)
    if cheap:
        found = {name: door for name, door in found.items() if "report" not in name}
    allowed = [
        *roots,
        linked,
        *map(Path, sys.path),
        Path(sys.prefix),
        REPOSITORY,
        Path("/proc/self"),
    ]
    allowed += [Path("/usr/share/fonts"), Path(folder_paths.get_temp_directory())]
    wrong, taken = try_names(found, Watch([p for p in allowed if str(p) != "."]), count, seed)
    wrong += [f"{name} is written through a link" for name in written_through(linked)]
    for fault in wrong[:20]:
        print(f"  {fault}")
    measured = f"{count} hostile names and paths through {len(found)} doors, {taken} of them "
    measured += f"harmless and taken: {len(wrong)} reads or writes outside, or raw exceptions"
    return Figure(14, measured, not wrong and count >= 5000)
