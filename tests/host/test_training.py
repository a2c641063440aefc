"""Training on the real ModelPatcher: the model comes back as it was, and the file loads everywhere
alike.
"""

import hashlib

import comfy.model_management
import comfy.sd
import comfy.utils
import pytest
import torch
from comfy.model_patcher import ModelPatcher

from lora2_core import RankSettings, TrainSettings, load, save
from lora2_core.host.apply import adopt, apply_lora
from lora2_core.host.export import as_lora_model
from lora2_core.host.training.choices import Choices
from lora2_core.host.training.run import train_on
from lora2_core.layers.targets import TargetSettings

SHORT = TrainSettings(steps=6, learning_rate=1e-2, seed=3)


def run_of(mode: str = "adaptive", training: TrainSettings = SHORT) -> Choices:
    return Choices(RankSettings(mode=mode, target_rank=4, max_rank=8), training, batch_size=2)


def quiet(step) -> None:
    """Nobody listens to the steps."""


def fingerprint(model: ModelPatcher) -> str:
    digest = hashlib.sha256()
    for key, tensor in sorted(model.model.state_dict().items()):
        digest.update(key.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def hooks_of(model: ModelPatcher) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.model.modules())


def state_of(model: ModelPatcher) -> tuple:
    """All that a training could leave behind."""
    parameters = list(model.model.parameters())
    return (
        fingerprint(model),
        hooks_of(model),
        [id(p) for p in parameters],
        [p.requires_grad for p in parameters],
        [p.grad for p in parameters],
        [m.training for m in model.model.modules()],
        dict(model.patches),
        dict(model.injections),
        repr(model.model_options),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.get_rng_state().sum(),
    )


@pytest.fixture(scope="module")
def trained(playground):
    """One adapter of every mode."""
    with torch.inference_mode():
        return {
            mode: train_on(
                playground.model,
                playground.latents,
                playground.positive,
                run_of(mode),
                quiet,
            )
            for mode in ("adaptive", "paper", "fixed")
        }


@pytest.mark.parametrize("mode", ["adaptive", "paper", "fixed"])
def test_the_model_leaves_as_it_came(playground, mode):
    before, output = state_of(playground.model), playground.forward()
    out = train_on(playground.model, playground.latents, playground.positive, run_of(mode), quiet)
    assert len(out.losses) == SHORT.steps and out.stopped_by is None
    assert state_of(playground.model) == before
    assert torch.equal(playground.forward(), output)


def test_an_exception_in_the_middle_leaves_the_model_as_it_came(playground):
    before = state_of(playground.model)

    def fail(step):
        raise RuntimeError("the disk is on fire")

    out = train_on(playground.model, playground.latents, playground.positive, run_of(), fail)
    assert "on fire" in str(out.stopped_by) and len(out.losses) == 1
    assert state_of(playground.model) == before


def test_an_interrupt_keeps_what_was_learned(playground):
    before = state_of(playground.model)

    def interrupt(step):
        if step.index == 3:
            raise comfy.model_management.InterruptProcessingException

    out = train_on(playground.model, playground.latents, playground.positive, run_of(), interrupt)
    assert isinstance(out.stopped_by, comfy.model_management.InterruptProcessingException)
    assert len(out.losses) == 3
    assert any(layer.up.abs().sum() > 0 for layer in out.lora.layers.values())
    assert state_of(playground.model) == before


def test_the_update_is_exactly_zero_before_the_first_step(playground):
    from lora2_core import attach
    from lora2_core.host.training.loan import on_loan
    from lora2_core.layers.targets import ATTENTION

    output = playground.forward()
    with on_loan(playground.model) as inner:
        adapters = attach(inner, ATTENTION, run_of().rank)
        assert len(adapters.ranks) == 56
        with torch.no_grad():
            assert torch.equal(playground.forward(), output)
        adapters.detach()


@pytest.mark.parametrize("mode", ["adaptive", "paper", "fixed"])
@pytest.mark.parametrize("form", ["kohya", "uniform", "peft"])
def test_every_loader_gives_the_same_output(playground, trained, mode, form, tmp_path):
    """The stock LoraLoader's code on our file against LoRA² on the same file and on the live
    adapter.
    """
    lora = trained[mode].lora
    path = tmp_path / "a.safetensors"
    save(path, lora, form=form, dtype="fp32", diffusers=lora.origin.base.diffusers)
    live = playground.forward(apply_lora(playground.model, None, lora, 1.0, 1.0)[0])
    ours = adopt(load(path), playground.model)
    assert ours.ranks == lora.ranks or form == "uniform"
    ours = playground.forward(apply_lora(playground.model, None, ours, 1.0, 1.0)[0])
    assert torch.allclose(ours, live, atol=2e-5, rtol=0), "but for the rounding of alpha"
    if form != "peft":  # the host does not read PEFT names of a UNet
        tensors, metadata = comfy.utils.load_torch_file(
            str(path), safe_load=True, return_metadata=True
        )
        stock, _ = comfy.sd.load_lora_for_models(
            playground.model, None, tensors, 1.0, 0.0, lora_metadata=metadata
        )
        assert len(stock.patches) == sum(rank > 0 for rank in lora.ranks.values())
        # alpha is folded in before the product here, and after it in the host
        assert (playground.forward(stock) - ours).abs().max() <= 1e-5
    assert not torch.equal(live, playground.forward())


def test_convolutions_and_other_linears_load_in_the_stock_loader(playground, tmp_path):
    """Conv2d with and without stride, feed-forward, projections: every key matches."""
    run = Choices(
        RankSettings(target_rank=3, max_rank=6),
        SHORT,
        batch_size=2,
        target=TargetSettings(targets=r"in_layers\.2$|\.op$|ff\.net\.2$|proj_in$|skip_connection$"),
    )
    lora = train_on(playground.model, playground.latents, playground.positive, run, quiet).lora
    assert any(layer.kernel == (3, 3) for layer in lora.layers.values())
    path = tmp_path / "conv.safetensors"
    save(path, lora, dtype="fp32", diffusers=lora.origin.base.diffusers)
    tensors = comfy.utils.load_torch_file(str(path), safe_load=True)
    stock, _ = comfy.sd.load_lora_for_models(playground.model, None, tensors, 1.0, 0.0)
    assert len(stock.patches) == sum(rank > 0 for rank in lora.ranks.values())
    ours, _ = apply_lora(playground.model, None, lora, 1.0, 1.0)
    output = playground.forward(ours)
    assert (playground.forward(stock) - output).abs().max() <= 1e-5
    assert not torch.equal(output, playground.forward())


def test_the_hosts_own_lora_type(playground, trained):
    lora = trained["adaptive"].lora
    stock, _ = comfy.sd.load_lora_for_models(playground.model, None, as_lora_model(lora), 1.0, 0.0)
    ours, _ = apply_lora(playground.model, None, lora, 1.0, 1.0)
    assert (playground.forward(stock) - playground.forward(ours)).abs().max() <= 1e-5


def test_the_same_seed_gives_the_same_file(playground, tmp_path):
    hashes = []
    for name, noise in (("a", 1), ("b", 2)):
        torch.manual_seed(noise)
        out = train_on(playground.model, playground.latents, playground.positive, run_of(), quiet)
        save(tmp_path / name, out.lora)
        hashes.append(load(tmp_path / name).origin.file.metadata["sshs_model_hash"])
    assert hashes[0] == hashes[1]


def test_training_lowers_the_loss_on_its_pictures(playground):
    run = run_of(training=TrainSettings(steps=40, learning_rate=3e-3))
    losses = train_on(playground.model, playground.latents, playground.positive, run, quiet).losses
    assert sum(losses[-20:]) < 0.8 * sum(losses[:20])


def test_training_goes_on_top_of_another_adapter(playground, trained):
    patched, _ = apply_lora(playground.model, None, trained["fixed"].lora, 1.0, 1.0)
    before, output = fingerprint(playground.model), playground.forward(patched)
    train_on(patched, playground.latents, playground.positive, run_of(), quiet)
    assert torch.equal(playground.forward(patched), output)
    playground.forward()  # loads the plain model again, which takes the patches off
    assert fingerprint(playground.model) == before


def test_a_partial_match_is_named_and_no_match_refused(playground, trained, caplog):
    from dataclasses import replace

    lora = trained["fixed"].lora
    odd = {f"foreign.{i}": layer for i, layer in enumerate(lora.layers.values())}
    with pytest.raises(ValueError, match="None of the adapter's 56 layers"):
        apply_lora(playground.model, None, replace(lora, layers=odd), 1.0, 1.0)
    first = dict(list(lora.layers.items())[:5])
    apply_lora(playground.model, None, replace(lora, layers=first | odd), 1.0, 1.0)
    assert "5 of the adapter's 61 layers" in caplog.text
