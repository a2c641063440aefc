"""What the host tests share: the playground, one short training on it, and a plain forward pass.

They import comfy at the top of their files, which without a host is a confusing error.
"""

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

if not os.environ.get("LORA2_HOST"):
    raise pytest.UsageError(
        "tests/host needs the host: run `python -m nox -s tests`, or set LORA2_HOST to a ComfyUI "
        "folder."
    )


@dataclass
class Playground:
    """The embedded model with latents and conditioning of one left-out subject."""

    model: object
    clip: object
    vae: object
    latents: list
    positive: list

    def forward(self, model=None) -> torch.Tensor:
        """The denoised latent of a fixed noise and prompt: [2, 8, 8, 8]."""
        import comfy.model_management

        patcher = model or self.model
        comfy.model_management.load_models_gpu([patcher])
        x = torch.randn(2, 8, 8, 8, generator=torch.Generator().manual_seed(1))
        cross, facts = self.positive[0][0]
        inner = patcher.model
        y = inner.encode_adm(pooled_output=facts["pooled_output"])
        with torch.no_grad():
            context = cross.repeat(2, 1, 1)
            return inner.apply_model(
                x, torch.tensor([1.0, 5.0]), c_crossattn=context, y=y.repeat(2, 1)
            ).clone()


@pytest.fixture(scope="session")
def playground() -> Playground:
    """One for the run: every test leaves it as it came. Built under inference mode, as the host's
    executor does.
    """
    from lora2_core.host.playground import load_playground
    from lora2_core.playground import asset, subjects

    with torch.inference_mode():
        model, clip, vae = load_playground(asset.load())
        images, captions = subjects.examples("owl", 4)
        latents = [{"samples": vae.encode(image[None])} for image in images]
        positive = [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in captions]
    return Playground(model, clip, vae, latents, positive)


@pytest.fixture(scope="session")
def nodes() -> dict:
    """Every node of the pack by its id, with its schema made, as the host loads them."""
    import comfyui_lora2

    extension = asyncio.run(comfyui_lora2.comfy_entrypoint())
    return {node.GET_SCHEMA().node_id: node for node in asyncio.run(extension.get_node_list())}


@pytest.fixture(autouse=True)
def inference_mode():
    """The mode in which the host runs every node."""
    with torch.inference_mode():
        yield


@pytest.fixture
def train(playground):
    """A short training with some options."""
    from lora2_core.host.training.choices import Choices
    from lora2_core.host.training.run import train_on
    from tests.host.killed import FIELDS

    def go(on_step=lambda step: None, **options):
        data = playground.model, playground.latents, playground.positive
        return train_on(*data, Choices.of(FIELDS | options), on_step)

    return go


@pytest.fixture(scope="session")
def uninterrupted(playground):
    """What `train` gives for some options, trained once for all tests that compare with it."""
    from lora2_core.host.training.choices import Choices
    from lora2_core.host.training.run import train_on
    from tests.host.kept import quiet
    from tests.host.killed import FIELDS

    outcomes = {}

    def of(**options):
        key = tuple(sorted(options.items()))
        if key not in outcomes:
            data = playground.model, playground.latents, playground.positive
            outcomes[key] = train_on(*data, Choices.of(FIELDS | options), quiet)
        return outcomes[key]

    return of


@pytest.fixture(scope="session")
def trainings(playground):
    """Short trainings on the playground, by which ways to end are tried."""
    from tests.reliability.trainings import Trainings

    return Trainings(playground)


@pytest.fixture
def name(request) -> str:
    """A folder of checkpoints of the test's own."""
    return "".join(c for c in request.node.name if c.isalnum())


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Four pictures of an owl in the host's input folder, each with its caption; an empty cache."""
    import folder_paths

    from lora2_core.playground import subjects

    monkeypatch.setattr(folder_paths, "get_input_directory", lambda: str(tmp_path / "input"))
    monkeypatch.setattr(folder_paths, "get_user_directory", lambda: str(tmp_path / "user"))
    folder = tmp_path / "input" / "owl"
    folder.mkdir(parents=True)
    images, captions = subjects.examples("owl", 4)
    for index, (image, caption) in enumerate(zip(images, captions, strict=True)):
        pixels = (image.numpy() * 255).round().astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
        (folder / f"{index}.txt").write_text(caption, encoding="utf-8")
    return folder


@pytest.fixture
def captured(monkeypatch) -> list[int]:
    """The sizes of the graphs that torch.compile captured; they compute as they are, which takes no
    compiler, and seconds instead of minutes.
    """
    from lora2_core.host.training import compiled, compiler

    found: list[int] = []

    def as_it_is(module, inputs):
        compiler.out_of_place(module.graph)
        module.recompile()
        found.append(len(module.graph.nodes))
        return module.forward

    monkeypatch.setattr(compiled, "backend", as_it_is)
    monkeypatch.setattr(compiled, "reason_against", lambda device: None)
    return found
