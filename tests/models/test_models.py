"""Classes of the host's models, from their layers to their files. All of them: `nox -s models`."""

from __future__ import annotations

import pytest
import torch

from lora2_core.layers.layer import Component
from lora2_core.layers.targets import ATTENTION, TargetSettings, find_layers
from tests.tiers import fast

from . import page, real
from .build import build, names, shape_of
from .shrink import shrunk
from .trial import NO_DIFFUSION, REFUSED, WORKS, Trial, denoises, tried

# those of which the names of layers were known before structure was: a choice stays what it was
NAMED = [
    "SD15", "SD20", "SDXL", "SSD1B", "KOALA_700M", "SD3", "Flux", "FluxSchnell", "Flux2", "Chroma",
    "Lumina2", "ZImage", "QwenImage", "WAN21_T2V", "WAN22_T2V",
]  # fmt: skip
KINDS = ["SDXL", "Krea2", "WAN21_I2V", "StableAudio"]  # UNet, one stream, video, audio


@pytest.mark.parametrize("name", fast(names(), *KINDS))
def test_a_class_is_what_the_page_says(name: str):
    """Trained with a gradient in every layer that counts, saved, loaded by the host and by us."""
    row = tried(name)
    assert page.line(row.facts()) == page.line(page.known()[name])


def test_the_page_has_every_class_of_this_host():
    assert list(page.known()) == names()
    rows = list(page.known().values())
    verdicts = [row["verdict"] for row in rows]
    assert verdicts.count(WORKS) == len(rows) - 4 and verdicts.count(NO_DIFFUSION) == 4
    assert page.total(rows) in page.PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", fast(NAMED, "SDXL", "Flux"))
def test_old_workflows_choose_the_same_layers(name: str):
    with torch.inference_mode():
        model = build(name).model
    assert list(TargetSettings().chosen(model)) == list(find_layers(model, ATTENTION))


# of the rules of other trainers; sd-scripts itself logs 304 for Flux
THEIRS = {
    "SD15": (192, 0, ["convolution"]), "SDXL": (722, 0, ["projection"]),
    "Flux": (304, 0, ["modulation"]), "QwenImage": (720, 0, []), "WAN21_T2V": (400, 0, []),
    "WAN21_I2V": (480, 0, []), "ZImage": (150, 20, []),
}  # fmt: skip


@pytest.mark.parametrize("name", fast(real.SHAPES, "SDXL", "Flux"))
def test_layers_of_models_in_their_real_sizes(name: str):
    """Beside another trainer's default, where it is known: what it adds is a kind that we leave out
    by name. Z-Image's refiners are left out there.
    """
    row = real.counts(name)
    assert row["attention"] < row["feed-forward"] <= row["blocks"]
    if name in THEIRS:
        assert (row["theirs"], row["they leave out"], row["they add"]) == THEIRS[name]
    if name == "SDXL":  # the layers of arXiv 2603.21884, and their parameters a rank
        model = real.real(name)
        layers = TargetSettings().chosen(model).values()
        assert len(layers) == 560
        assert sum(m.in_features + m.out_features for m in layers) == 1_451_520


def test_a_layer_without_a_gradient_is_noticed(monkeypatch):
    """The trial can fail: the output of one layer is cut off from its gradients."""
    trial = Trial("Flux")
    with torch.inference_mode():
        trial.train()
        module = trial.model.model.diffusion_model.single_blocks[0].linear2
        whole = Component.add_path

        def cut(self, *args):
            out = whole(self, *args)
            return out.detach() if self.module is module else out

        monkeypatch.setattr(Component, "add_path", cut)
        with pytest.raises(ValueError, match="has no gradient, but the loss depends on it"):
            trial.gradients()


def test_what_takes_no_time_is_no_diffusion_model():
    assert not denoises("SAM3") and denoises("SDXL")
    assert tried("RT_DETR_v4").verdict == NO_DIFFUSION


def test_a_shape_that_nobody_wrote_is_made_small():
    config = {
        "num_layers": 48, "num_attention_heads": 24, "attention_head_dim": 128, "hidden_size": 3072,
        "ffn_dim": 8192, "in_channels": 16, "patch_size": 2, "text_dim": 4096, "qkv_bias": True,
    }  # fmt: skip
    assert shrunk(config) == {
        "num_layers": 2, "num_attention_heads": 2, "hidden_size": 256, "ffn_dim": 682,
        "text_dim": 341,
    }  # fmt: skip
    assert shape_of("MageFlow")["num_layers"] == 2


def test_a_refusal_says_at_which_stage(monkeypatch):
    monkeypatch.setattr(Trial, "files", lambda self: (_ for _ in ()).throw(ValueError("a | b")))
    row = tried("Flux")
    assert (row.verdict, row.why) == (REFUSED, "files: a | b")
    assert page.line(row.facts()) == "| Flux | refused |  |  | files: a / b |"
    assert page.total([row.facts()]) == "models: 0 work, 0 no diffusion model, 1 refused, 1 classes"
