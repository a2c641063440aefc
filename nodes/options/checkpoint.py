"""LoRA² Checkpoint Options: a run that can go on later, and adapter files on the way."""

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
        "Saves the full state of a run every so many steps, and when it is cancelled or fails. The "
        "run can then go on later, to exactly the adapter that it would have become."
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
                tooltip="Steps from one checkpoint to the next. One more is written when the run "
                "is cancelled, runs out of memory or diverges. 0: no checkpoints.",
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
                tooltip="The checkpoint to go on from; everything else must be set as it was. "
                f"{LATEST}: the newest one, or a start from the beginning if there is none. Press "
                "R for the newest list.",
            ),
            chain(),
            io.Int.Input(
                "adapter_every",
                default=0,
                min=0,
                max=1_000_000,
                optional=True,
                tooltip="Steps from one adapter file to the next: the adapter that the run would "
                "give if it ended there, to choose from later. 0: none on the way.",
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
        """Checks the folder, not the list, which may be older than the folder."""
        return validated((folder_of, name), (check_resume, resume))
