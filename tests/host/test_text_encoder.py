"""The text encoder is trained beside the model, in the host's own CLIP: gradients, files, resume,
and a CLIP that leaves as it came in.
"""

import hashlib
from dataclasses import replace

import comfy.model_management
import comfy.sd
import comfy.utils
import folder_paths
import numpy as np
import pytest
import torch
from PIL import Image

from lora2_core import attach, load, save
from lora2_core.host.apply import adopt, apply_lora
from lora2_core.host.data.encoding import CAPTION
from lora2_core.host.export import as_lora_model
from lora2_core.host.training.choices import Choices
from lora2_core.host.training.examples import make_examples
from lora2_core.host.training.loan import lent
from lora2_core.host.training.objective import Draw, loss_of
from lora2_core.host.training.pictures import Pictures
from lora2_core.host.training.previews import Preview, decode, sample
from lora2_core.host.training.run import train_on
from lora2_core.host.training.text_encoder import TextEncoder, TextSettings
from lora2_core.playground import subjects
from lora2_core.ranks.settings import RankSettings
from tests.host.kept import bytes_of, keep, quiet, stop_at
from tests.host.killed import FIELDS
from tests.tiers import fast

CAPTIONS = list(subjects.examples("owl", 4)[1])
LAYERS = 4  # of an encoder block's attention


def trained(playground, on_step=quiet, positive=None, **fields):
    """A short training of both."""
    chosen = FIELDS | {"clip": playground.clip, "captions": CAPTIONS} | fields
    data = playground.model, playground.latents, positive or playground.positive
    return train_on(*data, Choices.of(chosen), on_step)


def text_layers(lora) -> list[str]:
    return [name for name in lora.layers if name.startswith("lora_te")]


def encoded(clip, caption: str = CAPTIONS[0]):
    (cross, facts), *_ = clip.encode_from_tokens_scheduled(clip.tokenize(caption))
    return cross.clone(), facts["pooled_output"].clone()


def state_of(clip) -> tuple:
    """All that a training could leave behind."""
    model, digest = clip.cond_stage_model, hashlib.sha256()
    for key, tensor in sorted(model.state_dict().items()):
        digest.update(key.encode() + tensor.numpy().tobytes())
    return (
        digest.hexdigest(),
        sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()),
        [id(p) for p in model.parameters()],
        [(p.requires_grad, p.grad) for p in model.parameters()],
        [m.training for m in model.modules()],
        [vars(m).get("forward") for m in model.modules()],
        dict(clip.patcher.patches), clip.layer_idx, dict(clip.tokenizer_options),
        comfy.model_management.in_training,
    )  # fmt: skip


def blocks(playground) -> int:
    return len(playground.clip.cond_stage_model.clip_l.transformer.text_model.encoder.layers)


@pytest.mark.parametrize("mode", fast(["adaptive", "paper", "fixed"]))
def test_both_are_trained_and_leave_as_they_came(playground, mode: str):
    before, outputs = state_of(playground.clip), encoded(playground.clip)
    out = trained(playground, mode=mode)
    assert out.stopped_by is None and len(out.losses) == 12
    names = text_layers(out.lora)
    assert len(names) == LAYERS * blocks(playground)
    assert names[0] == "lora_te_text_model_encoder_layers_0_self_attn_q_proj"
    assert names == list(out.lora.layers)[-len(names) :], "after those of the model"
    assert any(out.lora.layers[name].energy.sum() > 0 for name in names)
    assert state_of(playground.clip) == before
    assert all(map(torch.equal, encoded(playground.clip), outputs))


@pytest.mark.slow
def test_the_loss_falls_further_than_with_the_model_alone(playground):
    fields = FIELDS | {"steps": 60, "batch_size": 4, "learning_rate": 5e-3, "mode": "fixed"}
    both = trained(playground, **fields)
    data = playground.model, playground.latents, playground.positive
    alone = train_on(*data, Choices.of(fields), quiet)
    assert both.losses[0] == pytest.approx(alone.losses[0], rel=1e-5), "the same captions"
    assert sum(both.losses[-10:]) < 0.9 * sum(both.losses[:10])
    assert sum(both.losses[-10:]) < sum(alone.losses[-10:])


def test_gradients_agree_with_differences(playground):
    """Of the loss along the gradient itself, through the host's encoder and the model."""
    text = TextSettings(playground.clip, CAPTIONS)
    with lent(playground.model, playground.clip.patcher) as loan:
        encoder = TextEncoder(playground.clip, loan)
        pictures = Pictures.of(playground.model, playground.latents, playground.positive)
        pictures = encoder.encoded(replace(pictures, texts=CAPTIONS))
        items = make_examples(playground.model, loan.inner, pictures)
        layers = text.chosen(encoder.patcher.model)
        adapters = attach(loan.inner, layers, RankSettings(mode="fixed", target_rank=4))
        try:
            generator = torch.Generator().manual_seed(4)
            noise = torch.randn(4, *items[0].latent.shape[1:], generator=generator)
            ups = [c.lora_up for c in adapters.components.values()]

            def loss():
                drawn = Draw(encoder.renewed(items), noise, torch.full((4,), 3.0))
                return loss_of(loan.inner, drawn, {})

            adapters.refresh()
            gradients = torch.autograd.grad(loss(), ups)
            length = torch.stack([g.square().sum() for g in gradients]).sum().sqrt()
            assert all(g.any() for g in gradients) and length > 0
            values = []
            for sign in (1, -1):
                with torch.no_grad():
                    for up, gradient in zip(ups, gradients, strict=True):
                        up.copy_(sign * 0.05 * gradient / length)
                    values.append(float(loss()))
        finally:
            adapters.detach()
    assert (values[0] - values[1]) / 0.1 == pytest.approx(float(length), rel=2e-2)


@pytest.fixture(scope="module")
def finished(playground):
    """A training in fixed mode, what its encoder gave after the last step, and its adapter."""
    live = []

    def look(step):
        if step.index == 12:
            with torch.no_grad():
                stage = playground.clip.cond_stage_model
                live.extend(stage.encode_token_weights(playground.clip.tokenize(CAPTIONS[0]))[:2])

    with torch.inference_mode():
        return trained(playground, look, mode="fixed").lora, live


@pytest.fixture(scope="module")
def whole(playground) -> tuple:
    """All that a training comes to."""
    with torch.inference_mode():
        return bytes_of(trained(playground))


@pytest.mark.parametrize("form", ["kohya", "peft", "uniform"])
def test_the_file_loads_in_the_stock_loader_and_gives_the_trained_output(
    playground, finished, form, tmp_path, caplog
):
    lora, live = finished
    path = tmp_path / "both.safetensors"
    save(path, lora, form=form, dtype="fp32")
    tensors = comfy.utils.load_torch_file(str(path), safe_load=True)
    ours = apply_lora(playground.model, playground.clip, load(path), 1.0, 1.0)
    assert not torch.equal(encoded(ours[1])[0], encoded(playground.clip)[0])
    for found, expected in zip(encoded(ours[1]), live, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    if form == "peft":
        assert any(k.startswith("text_encoder.text_model.encoder.layers.0.self") for k in tensors)
        return  # the host's loader does not read these names of a UNet
    assert {k.split("_text_model")[0] for k in tensors if "_te" in k} == {"lora_te"}
    model, clip = comfy.sd.load_lora_for_models(
        playground.model, playground.clip, tensors, 1.0, 1.0
    )
    assert not [r for r in caplog.records if "lora" in r.getMessage().lower()], "every key matched"
    ranked = [name for name, rank in lora.ranks.items() if rank]
    assert len(model.patches) + len(clip.patcher.patches) == len(ranked)
    assert len(clip.patcher.patches) == len(text_layers(lora))
    for found, expected in zip(encoded(clip), encoded(ours[1]), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        playground.forward(model), playground.forward(ours[0]), rtol=0, atol=1e-5
    )


def test_strength_clip_scales_it_and_names_stay(playground, finished, tmp_path):
    lora, _ = finished
    save(tmp_path / "a.safetensors", lora, dtype="fp32")
    adopted = adopt(load(tmp_path / "a.safetensors"), playground.model, playground.clip)
    assert list(adopted.layers) == list(lora.layers)
    off = apply_lora(playground.model, playground.clip, lora, 1.0, 0.0)[1]
    assert torch.equal(encoded(off)[0], encoded(playground.clip)[0])
    half, whole = (
        apply_lora(playground.model, playground.clip, lora, 1.0, s)[1] for s in (0.5, 1.0)
    )
    plain = encoded(playground.clip)[0]
    assert (encoded(half)[0] - plain).norm() < (encoded(whole)[0] - plain).norm()


def test_the_metadata_says_how_it_was_trained(playground, finished, tmp_path):
    save(tmp_path / "a.safetensors", finished[0])
    metadata = load(tmp_path / "a.safetensors").origin.file.metadata
    assert metadata["ss_text_encoder_lr"] == "0.005" and metadata["ss_unet_lr"] == "0.01"
    settings = finished[0].origin.run.settings
    assert settings["text_targets"] == "self_attn" and settings["text_learning_rate"] == 0.005


def test_a_run_goes_on_to_the_same_bytes_and_another_one_is_refused(playground, whole, name):
    part = trained(playground, stop_at(7), **keep(name))
    rest = trained(playground, **keep(name, resume=part.checkpoint))
    assert rest.resumed_after == 7 and bytes_of(rest) == whole
    again = keep(name, 0, part.checkpoint)
    with pytest.raises(ValueError, match="text_learning_rate 0.005 there, 0.002 here"):
        trained(playground, text_learning_rate=0.002, **again)
    with pytest.raises(ValueError, match="another model: it has .* trained layers"):
        trained(playground, text_targets="layers_0_self_attn", **again)
    with pytest.raises(ValueError, match="picture 1 or its caption is not the same"):
        trained(playground, captions=["koala, pixel style, white background"], **again)
    weight = playground.clip.cond_stage_model.clip_l.transformer.text_model.final_layer_norm.weight
    before = weight.clone()
    try:
        weight.mul_(1.5)
        with pytest.raises(ValueError, match="text encoder [0-9a-f]+.* there, .* here"):
            trained(playground, **again)
    finally:
        weight.copy_(before)
    with pytest.raises(ValueError, match="another model"):
        data = playground.model, playground.latents, playground.positive
        train_on(*data, Choices.of(FIELDS | again), quiet)


def test_its_learning_rate_is_its_own(playground):
    """Tiny: hardly a step, while the model's layers learn."""

    def moved(lora, te: bool) -> float:
        layers = {n: y for n, y in lora.layers.items() if n.startswith("lora_te") == te}
        return sum(float(y.energy.sum()) for y in layers.values()) ** 0.5

    fields = {"mode": "fixed", "steps": 6}
    still = trained(playground, **fields, text_learning_rate=1e-6).lora
    quick = trained(playground, **fields, text_learning_rate=1e-2).lora
    assert moved(still, True) < 1e-2 * moved(quick, True)
    assert moved(still, False) > 0.5 * moved(quick, False)


def test_gradient_checkpointing_gives_the_same_losses(playground):
    on, off = (trained(playground, checkpointing=c, steps=4).losses for c in ("on", "off"))
    assert on == pytest.approx(off, rel=1e-4)


def test_the_conditioning_may_say_its_captions(playground, whole):
    pairs = zip(playground.positive, CAPTIONS, strict=True)
    told = [[[cross, facts | {CAPTION: text}]] for ((cross, facts),), text in pairs]
    assert bytes_of(trained(playground, positive=told, captions=None)) == whole


def test_priors_have_captions_too(playground):
    prior = {"prior_latents": playground.latents[:2], "prior_positive": playground.positive[:2]}
    out = trained(playground, **prior, prior_captions=["koala, noto style, red background"])
    assert text_layers(out.lora) and out.stopped_by is None
    with pytest.raises(ValueError, match="prior_positive does not say .* connect prior_captions"):
        trained(playground, **prior)


def test_it_starts_from_a_finished_adapter_of_both(playground, finished):
    lora, first = finished[0], FIELDS | {"steps": 1, "learning_rate": 1e-9, "mode": "fixed"}
    started = trained(playground, **first, start_from=lora)
    assert started.lora.layers.keys() == lora.layers.keys() | started.lora.layers.keys()
    model, clip = apply_lora(playground.model, playground.clip, lora, 1.0, 1.0)
    data = model, playground.latents, playground.positive
    fields = first | {"clip": clip, "captions": CAPTIONS}
    patched = train_on(*data, Choices.of(fields), quiet)
    assert started.losses[0] == pytest.approx(patched.losses[0], rel=1e-4)
    assert started.losses[0] != pytest.approx(trained(playground, **first).losses[0], rel=1e-3)


def test_previews_are_drawn_with_what_it_has_learned(playground, monkeypatch, tmp_path, caplog):
    """The last one as KSampler draws it with the finished adapter on both; training is the same."""
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    caption, fields = CAPTIONS[0], {"steps": 2, "seed": 7, "preview_every": 12}
    preview = Preview(playground.positive[0], playground.vae, prompt=caption, **fields)
    out = trained(playground, mode="fixed", previews=(preview,))
    assert bytes_of(out) == bytes_of(trained(playground, mode="fixed"))
    model, clip = apply_lora(playground.model, playground.clip, out.lora, 1.0, 1.0)
    positive = clip.encode_from_tokens_scheduled(clip.tokenize(caption))
    empty = torch.zeros(1, *playground.latents[0]["samples"].shape[1:])
    untrained = replace(preview, positive=playground.positive[0])
    for told, near in ((replace(preview, positive=positive), True), (untrained, False)):
        expected = np.asarray(decode(playground.vae, sample(model, told, empty)), dtype=float)
        with Image.open(max(tmp_path.rglob("*.png"))) as picture:
            distance = np.abs(np.asarray(picture, dtype=float) - expected).max()
        assert (distance <= 2) == near, distance
    assert "leaves out" not in caplog.text
    trained(playground, previews=(replace(preview, prompt=""),), steps=1)
    assert "leaves out what the text encoder has learned" in caplog.text


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"captions": None}, "positive does not say its captions as text, .* LoRA2 Dataset, or"),
        ({"captions": CAPTIONS[:3]}, "There are 4 pictures but 3 captions: give one for all"),
        ({"captions": [1]}, "captions holds something that is no text"),
        ({"clip": "clip"}, "clip is no CLIP: connect the one that belongs to the model"),
        ({"clip": None, "text_learning_rate": -1.0}, "have no text encoder: connect clip to"),
        ({"text_targets": "attn9"}, "'attn9' of the text encoder match none of its layers"),
        ({"text_targets": "("}, "is not a regular expression"),
        ({"text_learning_rate": -3.0}, "learning_rate of the text encoder is -3.0: give a number"),
        ({"learning_rate": 0.0, "text_learning_rate": 1e-3}, "learning_rate is 0, so that of"),
        ({"optimizer": "prodigy", "text_learning_rate": 1e-3}, "finds one learning rate for"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_before_any_step(playground, change: dict, sentence: str):
    with pytest.raises(ValueError, match=sentence) as caught:
        trained(playground, stop_at(1, AssertionError), **change)
    assert "\n" not in str(caught.value)


def test_lora2_dataset_says_its_captions(playground, folder, nodes):
    """Without any other input; empty captions of the dropout too, from the cache as well."""
    node = nodes["LoRA2Dataset"]
    fields = {f.id: f.default for f in node.define_schema().inputs if hasattr(f, "default")}
    fields |= {"folder": "owl", "clip": playground.clip, "vae": playground.vae}
    for _ in range(2):
        latents, positive, *_ = node.execute(
            **fields | {"resolution": 32, "caption_dropout": 0.2}
        ).result
        texts = [entry[1][CAPTION] for (entry,) in positive]
        assert set(texts) == {*CAPTIONS, ""}
        data = playground.model, latents, positive
        out = train_on(*data, Choices.of(FIELDS | {"clip": playground.clip}), quiet)
        assert out.stopped_by is None and text_layers(out.lora)


def test_every_other_node_takes_it(nodes, playground, finished):
    """Info, heatmap, report, Compress and Apply, at another size too."""
    lora, first = finished[0], text_layers(finished[0])[0]
    _, table, metadata = nodes["LoRA2Info"].execute(lora2=lora).result
    assert first in table and "ss_text_encoder_lr" in metadata
    (heatmap,) = nodes["LoRA2RankHeatmap"].execute(lora).result
    assert heatmap.ndim == 4 and heatmap.std() > 0
    (small,) = nodes["LoRA2Compress"].execute(lora=as_lora_model(lora), tolerance=0.3).result
    assert text_layers(small) and small.parameters < lora.parameters
    apply = nodes["LoRA2Apply"]
    _, clip, *_ = apply.execute(playground.model, lora, clip=playground.clip, keep=0.9).result
    assert not torch.equal(encoded(clip)[0], encoded(playground.clip)[0])
    without = apply.execute(playground.model, lora)
    assert "connect clip" in without.ui["lora2_note"][0]
