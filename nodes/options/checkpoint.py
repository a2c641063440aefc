"""LoRA² Checkpoint Options: lets a run go on later, and saves adapter files during the run."""

from __future__ import annotations

from comfy_api.latest import io

from ...lora2_core.host.training.checkpoint_files import checkpoint_list, folder_of
from ...lora2_core.host.training.checkpoint_keeping import LATEST, NONE, check_resume
from ...lora2_core.host.training.snapshots import PREFIX
from ..checking import validated
from .base import OptionsNode, chain


class LoRA2CheckpointOptions(OptionsNode):
    node_id = "LoRA2CheckpointOptions"
    title = "Checkpoint Options"
    description = (
        "Saves the full state of a run at regular steps, and when it is cancelled or fails. The "
        "run can go on later, and gives exactly the adapter that it would have given without a "
        "break."
    )
    aliases = [
        "resume", "continue training", "save state", "training state", "save every", "interrupted",
    ]  # fmt: skip
    renamed = {"every": "checkpoint_every", "name": "checkpoint_name"}

    @classmethod
    def fields(cls) -> list[io.Input]:
        return [
            io.Int.Input(
                "every",
                default=0,
                min=0,
                max=1_000_000,
                tooltip="Number of steps from one checkpoint to the next. One more is written "
                "when the run is cancelled, runs out of memory or diverges. 0: no checkpoints.",
            ),
            io.Int.Input(
                "keep_last",
                default=2,
                min=1,
                max=1000,
                tooltip="How many of the run's checkpoints to keep. Each is about six times as "
                "large as an fp16 adapter of the ranks at that step.",
            ),
            io.String.Input(
                "name",
                default="run",
                tooltip="The checkpoints are in output/lora2/checkpoints/<name>.",
            ),
            io.Combo.Input(
                "resume",
                options=[NONE, LATEST, *checkpoint_list()],
                default=NONE,
                tooltip="The checkpoint to go on from. All other settings must be as they were. "
                f"{LATEST}: the newest checkpoint; without one, the run starts at the beginning. "
                "Press R to read the list again.",
            ),
            chain(),
            io.Int.Input(
                "adapter_every",
                default=0,
                min=0,
                max=1_000_000,
                optional=True,
                tooltip="Number of steps from one adapter file to the next. A file holds the "
                "adapter that the run would give if it ended there, to choose from later. 0: no "
                "files.",
            ),
            io.String.Input(
                "adapter_prefix",
                default=PREFIX,
                optional=True,
                tooltip="Folder and name of these files in the loras folder. The step is added.",
            ),
        ]

    @classmethod
    def validate_inputs(cls, name=None, resume=None) -> bool | str:
        """Checks on the disk that the checkpoint exists. The list may be older than the folder."""
        return validated((folder_of, name), (check_resume, resume))
