"""LoRA² Apply and LoRA² Load: apply an adapter to a model, at any size."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from comfy_api.latest import io

from ..lora2_core import RankedLora
from ..lora2_core.adapter.model_order import of_text_encoder
from ..lora2_core.adapter.size_curve import size_curve
from ..lora2_core.adapter.strengths import Strengths
from ..lora2_core.host.applied import Applied, apply_stack, apply_structured
from ..lora2_core.host.apply import adopt, cut_for, resolve
from ..lora2_core.host.lora_files import file_state, missing_lora, read_lora
from ..lora2_core.host.lora_stack import StackEntry, read_stack, stack_of
from ..lora2_core.host.store import lora_path
from ..lora2_core.host.strengths import check_blocks, notes_of
from . import inputs
from .checking import checked
from .sockets import (
    CATEGORY,
    SHOWN_AGAIN,
    Lora2,
    LoraStack,
    check_adapter,
    check_clip,
    check_model,
    check_strengths,
)


@dataclass(frozen=True)
class Wanted:
    """Holds how an adapter is to be applied: strengths of model and clip, the share of its
    parameters to keep, and strengths by block.
    """

    model: float
    clip: float
    keep: float
    by_block: Strengths | None = None


def patched(model, clip, lora: RankedLora, wanted: Wanted) -> tuple[Applied, RankedLora, dict]:
    """Applies an adapter. Returns what it was applied to, the part of it that was used, and the ui
    output.
    """
    if wanted.by_block is not None:
        check_blocks(wanted.by_block, model)
    targets = resolve(lora, model, clip)
    cut = cut_for(lora, wanted.keep, targets)
    strength = wanted.model, wanted.clip
    applied = apply_structured(model, clip, cut, strength, targets, wanted.by_block)
    ui = shown(lora, clip, targets)
    if wanted.by_block and (notes := notes_of(wanted.by_block, targets, model)):
        ui["lora2_note"] = [*ui.get("lora2_note", []), *notes]
    return applied, cut, ui


def shown(lora: RankedLora, clip: object, targets: Collection[str]) -> dict:
    """Returns the ui output: how much of an adapter each setting of `keep` leaves, and notes about
    its layers that are not used.

    targets: names of the adapter's layers that the model or the clip has.
    """
    notes: list[str | list] = []
    unused = [name for name in lora.layers if name not in targets]
    if clip is None and any(map(of_text_encoder, lora.layers)):
        notes.append("It has layers for the text encoder: connect clip to use them.")
        unused = [name for name in unused if not of_text_encoder(name)]
    if unused:
        note = "{0} of its {1} layers are not in this model, the first is {2}: they change nothing."
        notes.append([note, len(unused), len(lora.layers), unused[0]])
    curve = {"lora2_size_curve": [vars(size_curve(lora))]}
    return curve | ({"lora2_note": notes} if notes else {})


class LoRA2Apply(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRA2Apply",
            display_name="LoRA\u00b2 Apply",
            category=CATEGORY,
            description="Applies a trained or loaded LoRA\u00b2 adapter to a model.",
            search_aliases=["apply lora", "lora strength", "lora size"],
            inputs=[
                inputs.model(),
                Lora2.Input("lora2", tooltip="From LoRA\u00b2 Train or LoRA\u00b2 Load."),
                inputs.clip(),
                inputs.strength("strength_model", "diffusion model"),
                inputs.strength("strength_clip", "text encoder"),
                inputs.keep(),
                inputs.strengths(),
                inputs.lora_stack(),
            ],
            outputs=[io.Model.Output(), io.Clip.Output(), inputs.hooks()],
            **SHOWN_AGAIN,
        )

    @classmethod
    @checked
    def execute(
        cls,
        model,
        lora2,
        strength_model=1.0,
        strength_clip=1.0,
        keep=1.0,
        clip=None,
        strengths=None,
        lora_stack=None,
    ) -> io.NodeOutput:
        check_model(model)
        check_clip(clip)
        check_adapter(lora2)
        check_strengths(strengths)
        model, clip = apply_stack(model, clip, read_stack(lora_stack))
        wanted = Wanted(strength_model, strength_clip, keep, strengths)
        out, _, ui = patched(model, clip, lora2, wanted)
        return io.NodeOutput(out.model, out.clip, out.hooks, ui=ui)


class LoRA2Load(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRA2Load",
            display_name="LoRA\u00b2 Load",
            category=CATEGORY,
            description="Loads any LoRA file (kohya, diffusers or PEFT names), checks it, and "
            "applies it at any size.",
            search_aliases=["lora loader", "load lora", "lora size"],
            inputs=[
                inputs.model(),
                inputs.lora_name("A file in the loras folder."),
                inputs.clip(),
                inputs.strength("strength_model", "diffusion model"),
                inputs.strength("strength_clip", "text encoder"),
                inputs.keep(),
                inputs.strengths(),
                inputs.lora_stack(),
            ],
            outputs=[
                io.Model.Output(),
                io.Clip.Output(),
                Lora2.Output(display_name="lora2"),
                inputs.hooks(),
                LoraStack.Output(
                    display_name="lora_stack",
                    tooltip="The stack and this file, for nodes of other packs.",
                ),
            ],
            **SHOWN_AGAIN,
        )

    @classmethod
    def validate_inputs(cls, lora_name=None) -> bool | str:
        """Says what to do if there is no such file. The host would only say that the value is not
        in its list.
        """
        if lora_name is None or lora_path(lora_name):
            return True  # a value of None comes over a link: execute checks it
        return missing_lora(lora_name)

    @classmethod
    def fingerprint_inputs(cls, lora_name=None, **_) -> str:
        """Returns a text that changes when the file changes."""
        return file_state(lora_name)

    @classmethod
    @checked
    def execute(
        cls,
        model,
        lora_name,
        strength_model=1.0,
        strength_clip=1.0,
        keep=1.0,
        clip=None,
        strengths=None,
        lora_stack=None,
    ) -> io.NodeOutput:
        check_model(model)
        check_clip(clip)
        check_strengths(strengths)
        stack = read_stack(lora_stack)
        model, clip = apply_stack(model, clip, stack)
        lora = adopt(read_lora(lora_name), model, clip)
        if not lora.singular:
            lora = lora.rotated()
        wanted = Wanted(strength_model, strength_clip, keep, strengths)
        out, cut, ui = patched(model, clip, lora, wanted)
        ui |= {"lora2_file": [lora_name]}
        if notes := lora.origin.file.notes:
            ui["lora2_note"] = [*notes, *ui.get("lora2_note", [])]
        stack = stack_of([*stack, StackEntry(lora_name, strength_model, strength_clip)])
        return io.NodeOutput(out.model, out.clip, cut, out.hooks, stack, ui=ui)


NODES = [LoRA2Apply, LoRA2Load]
