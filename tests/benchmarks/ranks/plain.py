"""Plain LoRA files for the experiments, trained here in the host: subjects on the playground, and
the shrunk models of the real classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import comfy.model_base
import comfy.supported_models
import torch

from lora2_core import RankSettings, TrainSettings, save
from lora2_core.host.playground import load_playground
from lora2_core.host.training.choices import Choices
from lora2_core.host.training.run import train_on
from lora2_core.layers.targets import ATTENTION, TargetSettings
from lora2_core.playground import asset
from lora2_core.playground.subjects import examples
from tests.benchmarks.held_out import TRAINED, encode
from tests.host.test_real_shapes import SD15, SDXL, patcher

EVERYTHING = (
    r"attn[12]\.to_(q|k|v|out\.0)$|ff\.net\.(0\.proj|2)$|proj_(in|out)$|"
    r"(in|out)_layers\.[23]$|skip_connection$|\.op$"
)


@dataclass(frozen=True)
class Plain:
    """One file: its subject on the playground, or None and the class of a shrunk model."""

    name: str
    subject: str | None
    rank: int
    form: str = "kohya"
    targets: str = ATTENTION
    steps: int = 150
    learning_rate: float = 2e-3


FILES = (
    Plain("owl, attention, rank 32", "owl", 32),
    Plain("fox, attention, rank 64", "fox", 64),
    Plain("rocket, attention, rank 32, PEFT names", "rocket", 32, form="peft"),
    Plain("teddy bear, attention and MLP and conv, rank 32", "teddy bear", 32, targets=EVERYTHING),
    Plain("SDXL shrunk, attention and MLP and conv, rank 32", None, 32, targets=EVERYTHING),
    Plain("SD1.5 shrunk, attention, rank 32", None, 32),
)


def shrunk(name: str):
    """(model, latents, positive) of a real class, all drawn at random."""
    sdxl = name.startswith("SDXL")
    family = comfy.supported_models.SDXL if sdxl else comfy.supported_models.SD15
    kind = comfy.model_base.ModelType.EPS
    model = patcher(family, SDXL if sdxl else SD15, torch.float32, kind)
    generator = torch.Generator().manual_seed(1)
    latents = [{"samples": torch.randn(8, 4, 16, 16, generator=generator)}]
    facts = {"pooled_output": torch.randn(1, 32, generator=generator)} if sdxl else {}
    return model, latents, [[[torch.randn(1, 77, 64, generator=generator), facts]]]


def train_files(folder: Path, *, quick: bool = False) -> Iterator[tuple[Plain, Path]]:
    """Trains and writes FILES as fp16, one by one; `quick`: ten steps each."""
    model, clip, vae = load_playground(asset.load())
    folder.mkdir(parents=True, exist_ok=True)
    for index, plain in enumerate(FILES):
        if plain.subject:
            images, captions = examples(plain.subject, TRAINED)
            source = model, *encode(clip, vae, images, captions)
        else:
            source = shrunk(plain.name)
        run = Choices(
            RankSettings(mode="fixed", target_rank=plain.rank),
            TrainSettings(10 if quick else plain.steps, plain.learning_rate),
            batch_size=8,
            target=TargetSettings(targets=plain.targets),
        )
        lora = train_on(*source, run, lambda step: None).lora
        path = folder / f"plain_{index}.safetensors"
        save(path, lora, form=plain.form, diffusers=lora.origin.base.diffusers)
        yield plain, path
