"""Flow models of the host's own classes learn with the default targets, their gradients are those
of the loss, and their files load anywhere.
"""

import re
from threading import Thread

import comfy.model_management
import comfy.sd
import comfy.utils
import pytest
import torch

from lora2_core import RankSettings, TrainSettings, save
from lora2_core.files.metadata import run_entries
from lora2_core.host.training.choices import Choices
from lora2_core.host.training.examples import by_shape, collate
from lora2_core.host.training.gradient_checkpointing import Way, checkpointed, repeated_blocks
from lora2_core.host.training.loan import on_loan
from lora2_core.host.training.objective import denoising_loss
from lora2_core.host.training.run import train_on
from lora2_core.host.training.timesteps import sigma_at
from lora2_core.layers.adapters import attach
from lora2_core.layers.targets import ATTENTION
from tests.host.examples import examples_of
from tests.tiers import each_once, fast

from .flow_models import FAMILIES, build, pictures
from .untrained import untrained

NAMES = list(FAMILIES)


def run_of(checkpointing: str = "off", steps: int = 20, rate: float = 3e-2) -> Choices:
    rank = RankSettings(target_rank=4, max_rank=8)
    return Choices(rank, TrainSettings(steps, rate), 2, checkpointing=checkpointing)


@pytest.mark.parametrize("name", fast(NAMES, "Flux", "Wan 2.1"))
def test_learns_and_every_key_loads_in_the_stock_loader(name, tmp_path):
    """Lower losses than untrained on the same draws; the model is bit for bit what it was."""
    model, data = build(name), pictures(name)
    before = {k: v.clone() for k, v in model.model.state_dict().items()}
    still, out = (train_on(model, *data, run_of(rate=r), lambda s: None) for r in (1e-9, 3e-2))
    pairs = zip(out.losses[-5:], still.losses[-5:], strict=True)
    assert all(learned < 0.999 * untrained for learned, untrained in pairs)
    assert all(torch.equal(v, before[k]) for k, v in model.model.state_dict().items())
    assert len(out.lora.layers) == FAMILIES[name].layers
    used = [layer for layer in out.lora.layers.values() if layer.rank]
    assert all(bool(layer.up.abs().sum() > 0) for layer in used)
    check_stock_loader(model, out.lora, tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_every_key_loads_in_the_stock_loader(name, tmp_path):
    model = build(name)
    lora = untrained(model)
    assert len(lora.layers) == FAMILIES[name].layers
    check_stock_loader(model, lora, tmp_path)


def check_stock_loader(model, lora, folder) -> None:
    """Saves an adapter in every form; the host's loader must take every layer of it."""
    used = [layer for layer in lora.layers.values() if layer.rank]
    for form in ("kohya", "peft", "uniform"):
        path = folder / f"{form}.safetensors"
        save(path, lora, form=form, diffusers=lora.origin.base.diffusers)
        tensors = comfy.utils.load_torch_file(str(path), safe_load=True)
        stock, _ = comfy.sd.load_lora_for_models(model, None, tensors, 1.0, 0.0)
        assert len(stock.patches) == len(used)


@pytest.mark.parametrize(("name", "dtype"), each_once(NAMES, [torch.bfloat16, torch.float16]))
def test_half_precision_trains_as_well(name, dtype):
    out = train_on(build(name, dtype), *pictures(name), run_of(steps=4), lambda step: None)
    assert out.stopped_by is None and all(map(torch.isfinite, map(torch.tensor, out.losses)))
    said = {torch.bfloat16: "bf16", torch.float16: "fp16"}[dtype]
    assert run_entries(out.lora, "")["ss_mixed_precision"] == said


@pytest.mark.parametrize(("name", "checkpointing"), each_once(NAMES, [False, True]))
def test_gradients_agree_with_central_differences(name, checkpointing):
    """Of every layer, along its own gradient g: (L(w + e g / |g|) - L(w - e g / |g|)) / 2 e = |g|.
    What is computed again is so in a thread of its own, as autograd does on a GPU.
    """
    model, (latents, positive) = build(name), pictures(name)
    generator = torch.Generator().manual_seed(2)
    with on_loan(model) as inner:
        x0, conditions = collate(examples_of(model, inner, latents, positive)[:2])
        noise = torch.randn(x0.shape, generator=generator)
        sigma = torch.tensor([0.3, 0.8])
        adapters = attach(inner, ATTENTION, RankSettings(mode="fixed", target_rank=4))
        components = adapters.components.values()

        def loss() -> torch.Tensor:
            return denoising_loss(inner, x0, noise, sigma, conditions, {})

        with torch.no_grad():
            for c in components:
                c.lora_up.normal_(0, 0.1, generator=generator)
        try:
            if checkpointing:
                adapted = {c.module for c in components}
                with checkpointed(repeated_blocks(inner, adapted), Way(adapters.paths)):
                    thread = Thread(target=loss().backward)
                    thread.start()
                    thread.join()
            else:
                loss().backward()
            for layer, c in adapters.components.items():
                weights = [c.lora_up, c.lora_down]
                if re.search(FAMILIES[name].idle, layer):
                    assert all(w.grad is None or not w.grad.any() for w in weights), layer
                    continue
                found = torch.cat([w.grad.flatten() for w in weights]).norm()
                assert found > 0, layer
                ends = []
                with torch.no_grad():
                    for step in (1e-2, -2e-2, 1e-2):
                        for w in weights:
                            w += step / found * w.grad
                        ends.append(float(loss()))
                slope = (ends[0] - ends[1]) / 2e-2
                assert slope == pytest.approx(float(found), rel=0.02, abs=1e-4), layer
        finally:
            adapters.detach()


@pytest.mark.parametrize("name", NAMES)
def test_checkpointing_changes_nothing(name):
    model, data = build(name), pictures(name)
    plain, again = (train_on(model, *data, run_of(c, 4), lambda s: None) for c in ("off", "on"))
    assert again.losses == pytest.approx(plain.losses, rel=1e-5)
    for layer, expected in plain.lora.layers.items():
        found = again.lora.layers[layer]
        torch.testing.assert_close(found.delta(), expected.delta(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_is_that_of_flow_matching(name):
    """mean((v - (noise - x0))²) at x = (1 - s) x0 + s noise, by the host's fused inference code."""
    model, (latents, positive) = build(name), pictures(name)
    with on_loan(model) as inner:
        x0, conditions = collate(examples_of(model, inner, latents, positive)[:2])
        noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(3))
        sigma = torch.tensor([0.1, 0.7])
        loss = denoising_loss(inner, x0, noise, sigma, conditions, {})
    column = sigma.view(-1, *[1] * (x0.ndim - 1))
    arguments = {k: v for k, v in conditions.items() if k != "c_crossattn"}
    with torch.inference_mode():
        v = inner.diffusion_model(
            (1 - column) * x0 + column * noise,
            inner.model_sampling.timestep(sigma),
            context=conditions["c_crossattn"],
            transformer_options={},
            **arguments,
        )
        naive = (v - (noise - x0)).square().mean()
    assert float(loss) == pytest.approx(float(naive), rel=1e-4)


SHIFT = {  # of the time: sigma at times t
    "Flux": lambda t: 1 / (1 + torch.exp(torch.tensor(-1.15)) * (1 / t - 1)),
    "Flux 2": lambda t: 1 / (1 + torch.exp(torch.tensor(-2.02)) * (1 / t - 1)),
    "Chroma": lambda t: 1 / (1 + torch.exp(torch.tensor(-1.15)) * (1 / t - 1)),
    "SD3": lambda t: 3 * t / (1 + 2 * t),
    "Lumina 2": lambda t: 6 * t / (1 + 5 * t),
    "Z-Image": lambda t: 3 * t / (1 + 2 * t),
    "Qwen-Image": lambda t: 1 / (1 + torch.exp(torch.tensor(-1.15)) * (1 / t - 1)),
    "Wan 2.1": lambda t: 8 * t / (1 + 7 * t),
}


@pytest.mark.parametrize("name", NAMES)
def test_noise_levels_are_shifted_as_the_model_wants(name):
    sampling = build(name).model.model_sampling
    time = torch.tensor([0.001, 0.25, 0.5, 0.9])
    found = sigma_at(sampling, 1 - time)
    torch.testing.assert_close(found, SHIFT[name](time), rtol=1e-4, atol=1e-6)


def test_pictures_and_videos_for_a_model_of_videos():
    """A latent without frames is one of a single frame; several frames train as they are."""
    model, (latents, positive) = build("Qwen-Image"), pictures("Qwen-Image")
    flat = [{"samples": latents[0]["samples"][:, :, 0]}]
    wanted = train_on(model, latents, positive, run_of(steps=2), lambda s: None)
    found = train_on(model, flat, positive, run_of(steps=2), lambda s: None)
    assert found.losses == wanted.losses
    video = [{"samples": latents[0]["samples"].repeat(1, 1, 3, 1, 1)}]
    assert len(train_on(model, video, positive, run_of(steps=2), lambda s: None).losses) == 2
    with pytest.raises(ValueError, match="Latent 1 has 5 dimensions, but this model's .* have 4"):
        train_on(build("SD3"), latents, positive, run_of(), lambda s: None)


def test_captions_of_different_lengths_do_not_share_a_batch():
    """Lumina is told how many tokens are real, one number for a batch."""
    model, (latents, positive) = build("Lumina 2"), pictures("Lumina 2", count=3)
    cross = positive[0][0][0]
    masks = [torch.tensor([[1] * n + [0] * (6 - n)]) for n in (4, 6, 4)]
    entries = [[[cross, {"attention_mask": mask}]] for mask in masks]
    with on_loan(model) as inner:
        items = examples_of(model, inner, latents, entries)
        groups = by_shape(items)
    assert groups == [[0, 2], [1]]
    assert len(train_on(model, latents, entries, run_of(steps=3), lambda s: None).losses) == 3


@pytest.mark.parametrize("before", [False, True])
def test_the_host_is_told_of_the_training_only_while_it_lasts(before):
    model = build("Flux")
    comfy.model_management.in_training = before
    try:
        with on_loan(model):
            assert comfy.model_management.in_training is True
        with pytest.raises(RuntimeError, match="stop"), on_loan(model):
            raise RuntimeError("stop")
        assert comfy.model_management.in_training is before
    finally:
        comfy.model_management.in_training = False
