"""The forms of file: which names the layers of a known model have in each, and how they are cut."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from .lora import RankedLora
from .model_names import ModelNames, Target
from .names import FILE_PREFIXES, HOST_PREFIX, KOHYA_PREFIX, complete_map, kohya_name, peft_name

KOHYA_PREFIXES = (KOHYA_PREFIX, "lora_te", "lora_prior_")
TEXT_PARTS = ("text_encoder.", "text_encoder_2.", "text_encoder_3.")
ENCODERS = "text_encoders."  # ComfyUI's own beginning of the path of a text encoder's layer
FLUX = re.compile(r"transformer\.(single_)?transformer_blocks\.\d+\.")  # its blocks in diffusers


def unsaid(name: str, form: str) -> ValueError:
    """Returns the error for a name that a form has no word for."""
    return ValueError(
        f"Layer {name} has no name in the {form} format that is sure to be read: save as original, "
        "or load the adapter with its model first, by LoRA2 Load."
    )


Pieces = Callable[[str], list[tuple[str, Target]]]


def kohya_pieces(
    known: ModelNames, paths: list[str], lora: RankedLora, diffusers: Mapping[str, str]
) -> Pieces:
    """Returns path -> its names in the kohya form: of diffusers for all layers or for none."""
    table = complete_map([p for p in paths if p.startswith(HOST_PREFIX)], diffusers)

    def pieces(path: str) -> list[tuple[str, Target]]:
        said = kohya_name(path, table)
        if known.reads(said, Target(path)):
            return [(said, Target(path))]
        found = known.tiles(path, KOHYA_PREFIXES) or known.tiles(path, FILE_PREFIXES)
        if not path.startswith(HOST_PREFIX):
            found = found or known.tiles(path, (ENCODERS,))
        if not found:
            raise unsaid(path, "kohya")
        return found

    return pieces


def comfy_pieces(known: ModelNames, paths: list[str], *_: object) -> Pieces:
    """Returns path -> its name as ComfyUI itself has it."""

    def pieces(path: str) -> list[tuple[str, Target]]:
        beginnings = (HOST_PREFIX,) if path.startswith(HOST_PREFIX) else (ENCODERS,)
        if known.reads(path, Target(path)):
            return [(path, Target(path))]
        if not (found := known.tiles(path, beginnings)):
            raise unsaid(path, "comfy")
        return found

    return pieces


def peft_pieces(
    known: ModelNames, paths: list[str], lora: RankedLora, diffusers: Mapping[str, str]
) -> Pieces:
    """Returns path -> its names in the peft form: those of diffusers' own model where all layers
    have one, else ComfyUI's, which diffusers converts.
    """
    inner = [path for path in paths if path.startswith(HOST_PREFIX)]
    table = complete_map(inner, diffusers)
    as_host = comfy_pieces(known, paths)
    split = not table and all(known.tiles(path, ("transformer.",)) for path in inner)

    def pieces(path: str) -> list[tuple[str, Target]]:
        if not path.startswith(HOST_PREFIX):
            if not (found := known.tiles(path, TEXT_PARTS) or known.tiles(path, (ENCODERS,))):
                raise unsaid(path, "peft")
            return found
        if table:
            return [(peft_name(path, table), Target(path))]
        return known.tiles(path, ("transformer.",)) if split else as_host(path)

    return pieces


def nunchaku_pieces(
    known: ModelNames, paths: list[str], lora: RankedLora, diffusers: Mapping[str, str]
) -> Pieces:
    """Returns path -> its names in the nunchaku form: those of diffusers' Flux."""
    for path in paths:
        found = known.tiles(path, ("transformer.",))
        if not found or not FLUX.match(found[0][0]):
            raise ValueError(f"nunchaku reads LoRAs of Flux' blocks, but there is a layer {path}.")
    return lambda path: known.tiles(path, ("transformer.",))


def whole_pieces(known: ModelNames, *_: object) -> Pieces:
    """Returns path -> the weight itself, by its path: layers as a training has them."""
    return lambda path: [(path, Target(path))]


PIECES: dict[str, Callable[..., Pieces]] = {
    "kohya": kohya_pieces, "uniform": kohya_pieces, "peft": peft_pieces, "comfy": comfy_pieces,
    "nunchaku": nunchaku_pieces, "whole": whole_pieces,
}  # fmt: skip
