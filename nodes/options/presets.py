"""LoRA² Preset and LoRA² Save Preset: settings of option nodes in files that people share."""

from __future__ import annotations

from comfy_api.latest import io

from ...lora2_core.host.training.presets import (
    Preset,
    new_file,
    preset_file,
    preset_list,
    read_preset,
    write_preset,
)
from .. import inputs
from ..checking import checked, validated
from ..sockets import CATEGORY, Lora2Options, check_options
from .base import chain


class LoRA2Preset(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRA2Preset",
            display_name="LoRA\u00b2 Preset",
            category=CATEGORY,
            description="Settings of a whole chain of option nodes from a file: for a family of "
            "models, or a file that somebody shared, put into output/lora2/presets.",
            search_aliases=["load preset", "training preset", "settings file", "template"],
            inputs=[
                io.Combo.Input(
                    "preset",
                    options=preset_list(),
                    tooltip="Presets of the pack, then files in output/lora2/presets. Press R for "
                    "the newest list.",
                ),
                chain("The preset's values win."),
            ],
            outputs=[
                Lora2Options.Output(display_name="options"),
                io.Int.Output(display_name="steps", tooltip="For steps of LoRA\u00b2 Train."),
                io.Float.Output(
                    display_name="learning_rate", tooltip="For learning_rate of LoRA\u00b2 Train."
                ),
                io.Int.Output(
                    display_name="target_rank", tooltip="For target_rank of LoRA\u00b2 Train."
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, preset=None) -> bool | str:
        """Checks the file, not the list, which may be older than the folder."""
        return validated((preset_file, preset))

    @classmethod
    def fingerprint_inputs(cls, preset=None, **_) -> str:
        """Returns a text that changes when the file does."""
        try:
            return f"{preset} {preset_file(preset).stat().st_mtime_ns}"
        except (OSError, ValueError):
            return str(preset)

    @classmethod
    @checked
    def execute(cls, preset, options=None) -> io.NodeOutput:
        found = read_preset(preset)
        settings = check_options(options) | dict(found.settings)
        return io.NodeOutput(settings, found.steps, found.learning_rate, found.target_rank)


class LoRA2SavePreset(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRA2SavePreset",
            display_name="LoRA\u00b2 Save Preset",
            category=CATEGORY,
            description="Saves the settings of a chain of option nodes as a preset: a small file "
            "in output/lora2/presets, to use again and to share. It holds no pictures, files or "
            "models.",
            search_aliases=["save preset", "export settings", "share settings"],
            is_output_node=True,
            inputs=[
                Lora2Options.Input("options", tooltip="The chain of option nodes to save."),
                io.String.Input(
                    "name",
                    default="my preset",
                    tooltip="Name of the file. A preset that is there already is never replaced.",
                ),
                io.String.Input(
                    "about", default="", multiline=True, tooltip="What it is for, in a few words."
                ),
                io.Int.Input(
                    "steps", default=500, min=1, max=1_000_000, tooltip="Steps that suit it."
                ),
                inputs.number(
                    "learning_rate",
                    default=1e-4,
                    max=10.0,
                    step=1e-7,
                    tooltip="The learning rate that suits it.",
                ),
                io.Int.Input(
                    "target_rank",
                    default=16,
                    min=1,
                    max=4096,
                    tooltip="The target rank that suits it.",
                ),
            ],
            outputs=[io.String.Output(display_name="preset", tooltip="Its name in the list.")],
        )

    @classmethod
    def validate_inputs(cls, name=None) -> bool | str:
        """Checks before anything runs that the name can be that of a file."""
        return validated((new_file, name))

    @classmethod
    @checked
    def execute(cls, options, name, about, steps, learning_rate, target_rank) -> io.NodeOutput:
        own = {"about": about, "steps": steps, "learning_rate": learning_rate}
        preset, left = Preset.of(check_options(options), **own, target_rank=target_rank)
        listed = write_preset(preset, name)
        text = f"{listed}: {len(preset.settings)} settings"
        if left:
            text += f"; not in it: {', '.join(left)}"
        return io.NodeOutput(listed, ui={"text": (text,)})
