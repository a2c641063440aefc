"""Adapters of one model are compared layer by layer, whatever names their files have."""

from dataclasses import replace

import pytest

from lora2_core.adapter.aligned import aligned
from lora2_core.adapter.origin import BaseModel, Origin
from tests.toys import random_lora

SHAPE = (8, 8, 2, None)
HOST = [f"diffusion_model.input_blocks.{b}.1.transformer_blocks.0.attn1.to_q" for b in (4, 7)]
DIFFUSERS = {
    f"input_blocks.{b}.1.transformer_blocks.0.attn1.to_q": (
        f"down_blocks.{b % 4}.attentions.0.transformer_blocks.0.attn1.to_q"
    )
    for b in (4, 7)
}
FILES = [f"lora_unet_{path.replace('.', '_')}" for path in DIFFUSERS.values()]


def lora_of(names: list[str], diffusers: dict[str, str] | None = None):
    lora = random_lora(dict.fromkeys(names, SHAPE))
    return replace(lora, origin=Origin(base=BaseModel(diffusers=diffusers))) if diffusers else lora


@pytest.mark.parametrize(
    ("names", "like"),
    [
        (FILES, lora_of(HOST, DIFFUSERS)),
        (HOST, lora_of(HOST)),
        ([n.removeprefix("diffusion_model.") for n in HOST], lora_of(HOST)),
        ([f"unet.{path}" for path in DIFFUSERS.values()], lora_of(HOST, DIFFUSERS)),
        (["lora_unet_" + n[16:].replace(".", "_") for n in HOST], lora_of(HOST)),
    ],
)
def test_layers_get_the_names_of_the_other(names: list[str], like):
    lora = lora_of(names)
    renamed = aligned(lora, like)
    assert list(renamed.layers) == HOST
    assert list(renamed.layers.values()) == list(lora.layers.values())
    assert list(aligned(like, lora_of(names, DIFFUSERS)).layers) == names


def test_what_the_other_has_not_keeps_its_name():
    assert list(aligned(lora_of(["a.b", HOST[0]]), lora_of(HOST)).layers) == ["a.b", HOST[0]]


def test_two_layers_never_become_one():
    twice = lora_of([HOST[0], "lora_unet_" + HOST[0][16:].replace(".", "_")])
    assert aligned(twice, lora_of(HOST)) is twice
