"""Makes the input fields that more than one node has. A node's schema calls `inputs.keep()`."""

from __future__ import annotations

import folder_paths
from comfy_api.latest import io

from ..lora2_core.host.lora_files import file_state
from ..lora2_core.host.training.epochs import MOST_EPOCHS
from ..lora2_core.layers.targets import AUTO, LAYERS, REGEX
from ..lora2_core.ranks.settings import MODES
from .sockets import BlockStrengths, LoraStack


def lora_name(tooltip: str, *, optional: bool = False) -> io.Combo.Input:
    """Makes the field that lists the files in the loras folder."""
    files = folder_paths.get_filename_list("loras")
    return io.Combo.Input("lora_name", options=files, optional=optional, tooltip=tooltip)


class FileOrSocket:
    """Is a part of nodes that read the file `lora_name`, or take an adapter over a link instead."""

    @classmethod
    def validate_inputs(cls, lora_name=None) -> bool:
        """Accepts any name: if an adapter is connected, the file is not read and may be missing."""
        return True

    @classmethod
    def fingerprint_inputs(cls, lora_name=None, **_) -> str:
        """Returns a text that changes when the file changes."""
        return file_state(lora_name)


def budget(tooltip: str) -> io.Float.Input:
    """Makes the field of a size limit in MB. 0 means no limit."""
    return io.Float.Input(
        "budget_mb", default=0.0, min=0.0, max=100000.0, step=0.01, tooltip=tooltip
    )


def run_fields() -> list[io.Input]:
    """Makes the fields of the run: its length, its learning rate, its mode and its size."""
    return [
        io.Int.Input(
            "steps",
            default=500,
            min=1,
            max=1_000_000,
            tooltip="How many times the adapter is updated.",
        ),
        io.Int.Input("batch_size", default=1, min=1, max=4096, tooltip="Pictures in each step."),
        io.Float.Input(
            "learning_rate",
            default=1e-4,
            min=0.0,
            max=10.0,
            step=1e-7,
            round=1e-9,
            tooltip="Learning rate of the adapter. 1e-4 suits SDXL, 5e-3 the Playground.",
        ),
        io.Combo.Input(
            "mode",
            options=list(MODES),
            default="adaptive",
            tooltip="adaptive: learns how much rank each layer needs. paper: exactly as in "
            "arXiv 2603.21884. fixed: plain LoRA with one rank.",
        ),
        io.Int.Input(
            "target_rank",
            default=16,
            min=1,
            max=4096,
            tooltip="adaptive: the highest mean rank. paper: the rank that every layer is "
            "pulled to. fixed: the rank. With all layers, 16 is at most 97 MB on SDXL.",
        ),
        budget(
            "Size of the finished adapter in MB (fp16). It replaces target_rank, in adaptive mode "
            "only. 0: target_rank is used."
        ),
        io.Int.Input(
            "max_rank",
            default=256,
            min=1,
            max=4096,
            tooltip="No layer's rank goes above this.",
        ),
        seed("The same seed gives the same adapter."),
    ]


def seed(tooltip: str, **settings: bool) -> io.Int.Input:
    """Makes the field of a seed that stays as it is after a run."""
    return io.Int.Input(
        "seed",
        default=0,
        min=0,
        max=0xFFFFFFFFFFFFFFFF,
        control_after_generate=False,
        tooltip=tooltip,
        **settings,
    )


def epochs(*, optional: bool = False) -> io.Int.Input:
    """Makes the field that gives a run's length in epochs."""
    return io.Int.Input(
        "epochs",
        default=0,
        min=0,
        max=MOST_EPOCHS,
        optional=optional,
        tooltip="How often every picture is seen, on average, instead of steps. 0: steps counts.",
    )


def more_resolutions() -> io.String.Input:
    """Makes the field of further resolutions of a folder of pictures."""
    return io.String.Input(
        "more_resolutions",
        default="",
        optional=True,
        advanced=True,
        tooltip="Further resolutions, such as 512, 768: each picture is also encoded at those that "
        "it is large enough for. The adapter then works at several sizes. Empty: resolution alone.",
    )


def layers() -> io.Combo.Input:
    """Makes the field of the kind of layers that is trained. A workflow of before has none, which
    means the attention layers.
    """
    return io.Combo.Input(
        "layers",
        options=[kind for kind in LAYERS if kind != REGEX],
        default=AUTO,
        optional=True,
        tooltip="auto: all linear and convolution layers in the model's blocks, in paper mode the "
        "attention. At equal size, all layers learn more than attention alone; they take about a "
        "third more time a step. LoRA\u00b2 Target Options can choose otherwise.",
    )


def model() -> io.Model.Input:
    """Makes the socket of the model that an adapter is applied to."""
    tooltip = "The model to apply the adapter to. It is not changed: the output is a clone of it."
    return io.Model.Input("model", tooltip=tooltip)


def clip() -> io.Clip.Input:
    """Makes the socket of the text encoder, for adapters that have layers for it."""
    tooltip = "Only needed for adapters that have layers for the text encoder."
    return io.Clip.Input("clip", optional=True, tooltip=tooltip)


def strength(name: str, what: str) -> io.Float.Input:
    """Makes a strength field with the host's own range."""
    tooltip = f"How strongly the adapter changes the {what}. 0: not at all. Below 0: in reverse."
    return io.Float.Input(name, default=1.0, min=-100.0, max=100.0, step=0.01, tooltip=tooltip)


def strengths() -> io.Input:
    """Makes the socket for strengths by block and over the sampling."""
    tooltip = "From LoRA\u00b2 Block Strengths: by block, and over the sampling steps."
    return BlockStrengths.Input("strengths", optional=True, tooltip=tooltip)


def lora_stack() -> io.Input:
    """Makes the socket for LoRAs of a stack of any pack."""
    tooltip = "LoRAs of a stack of any pack, applied as well, at their own strengths and whole."
    return LoraStack.Input("lora_stack", optional=True, tooltip=tooltip)


def hooks() -> io.Output:
    """Makes the output of an adapter as the host's hooks."""
    tooltip = "The adapter for single conditionings, for Cond Set Props; leave MODEL unused then."
    return io.Hooks.Output(display_name="hooks", tooltip=tooltip)


def keep() -> io.Float.Input:
    """Makes the slider that sets an adapter's size."""
    return io.Float.Input(
        "keep",
        default=1.0,
        min=0.01,
        max=1.0,
        step=0.01,
        display_mode=io.NumberDisplay.slider,
        tooltip="Share of the adapter's parameters to keep. The rank positions that matter least "
        "in the whole model are removed first.",
    )


def number(name: str, **settings: object) -> io.Float.Input:
    """Makes a number field that starts at 0 and has steps of 0.01, unless `settings` say otherwise.
    A user can also type a value between two steps.
    """
    return io.Float.Input(name, **{"min": 0.0, "step": 0.01, "round": 1e-9, **settings})
