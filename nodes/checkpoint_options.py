"""LoRA² Checkpoint Options: a run that can be taken up again exactly."""

from __future__ import annotations

from comfy_api.latest import io

from ..lora2_core.host.training.checkpoint_files import checkpoint_list, folder_of
from ..lora2_core.host.training.checkpoint_keeping import LATEST, NONE, check_resume
from ..lora2_core.host.training.snapshots import PREFIX
from .common import CATEGORY, Lora2Options
from .fields import checked
from .options import extend


class LoRA2CheckpointOptions(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRA2CheckpointOptions",
            display_name="LoRA\u00b2 Checkpoint Options",
            category=CATEGORY,
            description="Writes the whole state of a run now and then, and when it is cancelled or "
            "fails, so that it can go on later to exactly the adapter that it would have become.",
            search_aliases=[
                "resume", "continue training", "save state", "training state", "save every",
                "interrupted",
            ],
            inputs=[
                io.Int.Input(
                    "every",
                    default=0,
                    min=0,
                    max=1_000_000,
                    tooltip="Steps from one checkpoint to the next; one more is written when the "
                    "run is cancelled, runs out of memory or diverges. 0: none at all.",
                ),
                io.Int.Input(
                    "keep_last",
                    default=2,
                    min=1,
                    max=1000,
                    tooltip="How many of the run's checkpoints stay. Each is about six times as "
                    "large as an fp16 adapter of the ranks at that step.",
                ),
                io.String.Input(
                    "name",
                    default="run",
                    tooltip="The checkpoints lie in output/lora2/checkpoints/<name>.",
                ),
                io.Combo.Input(
                    "resume",
                    options=[NONE, LATEST, *checkpoint_list()],
                    default=NONE,
                    tooltip="The checkpoint to go on from; everything else must be set as it was. "
                    f"{LATEST}: the one that was written last, or from the beginning where there "
                    "is none. Press R for the newest list.",
                ),
                Lora2Options.Input("options", optional=True, tooltip="More options, chained."),
                io.Int.Input(
                    "adapter_every",
                    default=0,
                    min=0,
                    max=1_000_000,
                    optional=True,
                    tooltip="Steps from one adapter file to the next: what the run would give if "
                    "it ended there, to choose from later. 0: none on the way.",
                ),
                io.String.Input(
                    "adapter_prefix",
                    default=PREFIX,
                    optional=True,
                    tooltip="Folder and name of these files in the loras folder; the step follows.",
                ),
            ],
            outputs=[Lora2Options.Output(display_name="options")],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, name=None, resume=None) -> bool | str:
        """The list is not checked here, since it may be older than the folder: the folder is."""
        try:
            if name is not None:
                folder_of(name)
            if resume is not None:
                check_resume(resume)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    @checked
    def execute(
        cls,
        every=0,
        keep_last=2,
        name="run",
        resume=NONE,
        options=None,
        adapter_every=0,
        adapter_prefix=PREFIX,
    ) -> io.NodeOutput:
        check_resume(resume)
        changes = {"checkpoint_every": every, "keep_last": keep_last}
        changes |= {"checkpoint_name": name, "resume": resume}
        changes |= {"adapter_every": adapter_every, "adapter_prefix": adapter_prefix}
        return io.NodeOutput(extend(options, **changes))


NODES = [LoRA2CheckpointOptions]
