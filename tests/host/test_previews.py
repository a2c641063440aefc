"""Previews: the host's sampler draws with the adapter so far, and training doesn't notice."""

import logging
from pathlib import Path

import comfy.model_management
import comfy.samplers
import folder_paths
import numpy as np
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from PIL import Image

from lora2_core.host.apply import apply_lora
from lora2_core.host.training.choices import Choices
from lora2_core.host.training.previews import Preview, decode, sample
from lora2_core.host.training.run import train_on
from tests.host.flow_models import FAMILIES, build, pictures
from tests.host.kept import bytes_of, keep, quiet
from tests.host.test_training import fingerprint, hooks_of, state_of
from tests.tiers import fast


@pytest.fixture
def preview(playground, monkeypatch, tmp_path):
    """A preview of the owl every five steps, in a folder of the test's own."""
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))

    def make(**changes) -> Preview:
        fields = {"preview_every": 5, "steps": 2, "seed": 7} | changes
        return Preview(playground.positive[0], playground.vae, **fields)

    return make


@pytest.fixture
def shown() -> list:
    return []


@pytest.fixture
def run(playground, shown):
    """A short training with previews, all of which are noted."""
    from tests.host.killed import FIELDS

    def go(*previews, on_step=quiet, model=None, **options):
        data = model or playground.model, playground.latents, playground.positive
        settings = Choices.of(FIELDS | options | {"previews": previews})
        return train_on(*data, settings, on_step, shown.append)

    return go


def files(tmp_path: Path) -> list[Path]:
    return sorted(tmp_path.rglob("*.png"))


@pytest.mark.parametrize("sampler", fast(["dpmpp_2m_sde", "euler_ancestral", "euler"]))
@pytest.mark.parametrize(
    "options",
    fast(
        [
            {"mode": "adaptive", "ema": 0.9, "checkpointing": "on"},
            {"mode": "paper", "attention_weight": 1e-3},
            {"mode": "fixed", "ema": 0.9},
            {"mode": "adaptive"},
        ]
    ),
    ids=lambda options: " ".join(map(str, options.values())),
)
def test_training_is_the_same_to_the_bit(
    playground, uninterrupted, run, preview, shown, tmp_path, options, sampler
):
    """Two of the samplers draw random numbers as they go."""
    plain = uninterrupted(**options)
    before, random = state_of(playground.model), torch.get_rng_state()
    out = run(preview(sampler_name=sampler, preview_every=1), **options)
    assert bytes_of(out) == bytes_of(plain)
    assert [s.step for s in shown] == list(range(13)) and len(files(tmp_path)) == 13
    assert torch.equal(torch.get_rng_state(), random) and state_of(playground.model) == before
    assert not comfy.model_management.in_training


def test_pictures_are_those_of_the_adapter(playground, run, preview, shown, tmp_path):
    """The first is the base model's, the last that of the finished adapter, as KSampler draws."""
    settings = preview(negative=playground.positive[1])
    out = run(settings, mode="fixed", ema=0.9)
    assert [s.step for s in shown] == [0, 5, 10, 12]
    patched, _ = apply_lora(playground.model, None, out.lora, 1.0, 1.0)
    latent = torch.zeros(1, 8, 8, 8)
    for model, place in ((playground.model, 0), (patched, 3)):
        with Image.open(tmp_path / shown[place].subfolder / shown[place].filename) as image:
            drawn = np.asarray(image).astype(int)
        wanted = np.asarray(decode(playground.vae, sample(model, settings, latent))).astype(int)
        assert drawn.shape == (32, 32, 3) and np.abs(drawn - wanted).max() <= 1
    assert len({path.read_bytes() for path in files(tmp_path)}) == 4


def test_every_run_has_a_number_and_every_prompt(run, preview, shown, tmp_path):
    run(preview(), preview(seed=8, width=64), steps=2)
    run(preview(filename_prefix="lora2/previews/other"), steps=2)
    names = [path.relative_to(tmp_path).as_posix() for path in files(tmp_path)]
    steps = "step-000000.png", "step-000002.png"
    starts = "other_00001", "preview_00001", "preview_00002"
    assert names == [f"lora2/previews/{start}_{step}" for start in starts for step in steps]
    with Image.open(tmp_path / names[4]) as image:
        assert image.size == (64, 32)
    run(preview(), steps=2)
    assert shown[-1].filename == "preview_00003_step-000002.png"
    assert all(s.seconds > 0 and s.subfolder == "lora2/previews" for s in shown)


@pytest.mark.parametrize("patched", [False, True], ids=["plain", "with a LoRA on it"])
def test_the_host_may_unload_the_model_meanwhile(playground, run, preview, monkeypatch, patched):
    """As it does where memory is short: patched weights are then other tensors than before."""
    from lora2_core.host.training import previews

    model = playground.model
    if patched:
        model, _ = apply_lora(model, None, run(mode="fixed").lora, 1.0, 1.0)
    playground.forward()
    before, output = fingerprint(playground.model), playground.forward(model)
    weights = [p.data_ptr() for p in model.model.parameters()]
    seen, draw = [], previews.sample

    def unloading(*args):
        drawn = draw(*args)
        comfy.model_management.unload_all_models()
        seen.append([p.data_ptr() for p in model.model.parameters()] == weights)
        return drawn

    monkeypatch.setattr(previews, "sample", unloading)
    plain = run(model=model)
    assert bytes_of(run(preview(), model=model)) == bytes_of(plain)
    assert len(seen) == 4 and all(seen) is not patched
    assert torch.equal(playground.forward(model), output) and hooks_of(model) == 0
    playground.forward()  # loads the plain model again, which takes the patches off
    assert fingerprint(playground.model) == before


class FirstChannels:
    """A VAE of the least kind: the latent's first three channels are the picture."""

    def __init__(self):
        device = comfy.model_management.get_torch_device()
        self.patcher = ModelPatcher(torch.nn.Identity(), device, device)

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        return latent[:, :3].movedim(1, -1)


@pytest.mark.parametrize("family", fast(FAMILIES, "Flux", "Wan 2.1"))
def test_flow_models_draw_as_the_host_does(family, monkeypatch, tmp_path):
    """Of models of videos, one frame; training is the same to the bit, checkpointed too."""
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    model, (latents, positive) = build(family), pictures(family)
    preview, shown = Preview(positive[0], FirstChannels(), preview_every=1, steps=2, cfg=1.0), []
    fields = {"steps": 3, "target_rank": 2, "max_rank": 4, "checkpointing": "on"}
    plain = train_on(model, latents, positive, Choices.of(fields), quiet)
    settings = Choices.of(fields | {"previews": (preview,)})
    out = train_on(model, latents, positive, settings, quiet, shown.append)
    assert bytes_of(out) == bytes_of(plain) and [s.step for s in shown] == [0, 1, 2, 3]
    with Image.open(tmp_path / shown[0].subfolder / shown[0].filename) as image:
        drawn = np.asarray(image).astype(int)
    frames = (1,) * (len(FAMILIES[family].latent) - 3)
    size = FAMILIES[family].latent
    latent = torch.zeros(1, size[0], *frames, *size[-2:])
    wanted = np.asarray(decode(preview.vae, sample(model, preview, latent))).astype(int)
    assert drawn.shape == (*size[-2:], 3) and np.abs(drawn - wanted).max() <= 1
    assert len(np.unique(drawn)) > 4


def test_an_interrupt_inside_ends_the_run_and_keeps_all(
    uninterrupted, run, preview, monkeypatch, tmp_path
):
    from lora2_core.host.training import previews

    whole, calls, draw = uninterrupted(ema=0.9), [], previews.sample

    def interrupted(*args):
        if len(calls) == 1:
            comfy.model_management.interrupt_current_processing()
        calls.append(1)
        return draw(*args)

    with monkeypatch.context() as patch:
        patch.setattr(previews, "sample", interrupted)
        part = run(preview(), ema=0.9, **keep("shown", 10))
    assert isinstance(part.stopped_by, comfy.model_management.InterruptProcessingException)
    assert len(part.losses) == 5 and len(files(tmp_path)) == 1
    assert part.checkpoint == "shown/step-000005.safetensors"
    rest = run(preview(), ema=0.9, **keep("shown", 10, part.checkpoint))
    assert rest.resumed_after == 5 and bytes_of(rest) == bytes_of(whole)


@pytest.mark.parametrize(
    ("place", "error", "said"),
    [
        ("sample", torch.OutOfMemoryError("no memory\nleft"), "no memory left"),
        ("decode", RuntimeError(""), "RuntimeError"),
        ("decode", KeyError("what a custom node may raise"), "what a custom node"),
        ("numbered_files", OSError(28, "No space left on device"), "No space left"),
    ],
)
def test_a_preview_that_fails_is_one_warning(
    uninterrupted, run, preview, monkeypatch, caplog, place, error, said
):
    from lora2_core.host.training import previews

    plain, settings = uninterrupted(), preview()

    def failing(*_):
        raise error

    monkeypatch.setattr(previews, place, failing)
    with caplog.at_level(logging.WARNING, "lora2"):
        out = run(settings)
    (record,) = caplog.records
    assert record.getMessage().startswith("The preview of step 0 failed") and said in caplog.text
    assert "\n" not in record.getMessage()
    assert out.stopped_by is None and bytes_of(out) == bytes_of(plain)


def test_memory_is_given_back(playground, run, preview):
    """The VAE is off the device before the next step, and nothing else was left there."""
    run(steps=1)

    def loaded() -> set[str]:
        models = comfy.model_management.current_loaded_models
        return {each.model.model.__class__.__name__ for each in models}

    before = loaded()
    seen = []
    run(preview(preview_every=1), on_step=lambda step: seen.append(loaded()), steps=4)
    vae = playground.vae.patcher.model.__class__.__name__
    assert all(vae not in now for now in seen) and seen[-1] <= before


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"preview_every": 0}, "every is 0: give a whole number from 1"),
        ({"cfg": float("nan")}, "cfg is nan: give a number from 0 to 100"),
        ({"sampler_name": "none"}, "sampler_name is 'none': choose euler"),
        ({"width": -8}, "width is -8"),
        ({"filename_prefix": "../outside"}, "'../outside' is no place in the output folder"),
        ({"filename_prefix": "/etc/x"}, "'/etc/x' is no place in the output folder"),
        ({"filename_prefix": "a/../../x"}, "is no place in the output folder"),
        ({"filename_prefix": "folder/"}, "'folder/' is no place"),
        ({"filename_prefix": "a\0b"}, "is no place in the output folder"),
        ({"filename_prefix": ""}, "filename_prefix '' is no place"),
    ],
)
def test_bad_values_are_one_sentence(preview, tmp_path, changes: dict, sentence: str):
    with pytest.raises(ValueError, match=sentence):
        preview(**changes)
    assert not list(tmp_path.parent.glob("outside*"))


def test_another_models_conditioning_is_refused_before_training(run, preview, playground):
    cross, facts = playground.positive[0][0]
    with pytest.raises(ValueError, match="negative of the preview is 3 wide, but the captions"):
        run(preview(negative=[[cross[..., :3], facts]]), on_step=lambda step: 1 / 0)
