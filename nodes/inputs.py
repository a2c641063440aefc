"""Makes the input fields that more than one node has. A node's schema calls `inputs.keep()`."""

from __future__ import annotations

import folder_paths
from comfy_api.latest import io

from ..lora2_core.host.lora_files import file_state


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
