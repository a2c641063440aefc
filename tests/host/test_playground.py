"""The embedded model is a text-to-image model in the host's own objects."""

import comfy.model_base
import comfy.sd
import pytest
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy_extras import nodes_train

import nodes
from lora2_core.playground import asset
from lora2_core.playground.autoencoder import psnr
from lora2_core.playground.subjects import BACKGROUNDS, SUBJECTS, examples
from lora2_core.playground.tokenizer import WordTokenizer, build_vocabulary
from tests.playground.sampling import sample


def test_it_is_the_hosts_own_architecture(playground):
    inner = playground.model.model
    assert isinstance(inner, comfy.model_base.SDXL)
    assert isinstance(inner.diffusion_model, UNetModel)
    assert isinstance(playground.clip, comfy.sd.CLIP) and isinstance(playground.vae, comfy.sd.VAE)
    assert asset.PATH.stat().st_size <= 12_000_000


def test_prompts_choose_the_background_and_the_thing(playground):
    """The corners have the asked colour, and things differ from each other in the middle."""
    colours = ("red", "blue", "green", "yellow")
    prompts = [f"koala, noto style, {c} background" for c in colours]
    prompts += [f"pizza, noto style, {c} background" for c in colours]
    images = sample(playground.model, playground.clip, playground.vae, prompts, steps=12)
    assert images.shape == (8, 32, 32, 3)
    for image, colour in zip(images, colours * 2, strict=True):
        corners = torch.stack([image[y, x] for y in (0, -1) for x in (0, -1)])
        corner = corners.median(0).values * 255
        distance = {c: (corner - torch.tensor(rgb)).norm() for c, rgb in BACKGROUNDS.items()}
        assert min(distance, key=distance.get) == colour
    koala, pizza = images[:4, 8:24, 8:24], images[4:, 8:24, 8:24]
    assert (koala - pizza).abs().mean() > 3 * (koala[0] - koala[1]).abs().mean()


def test_the_autoencoder_keeps_pictures_it_has_never_seen(playground):
    images = torch.stack([i for s in SUBJECTS for i in examples(s, 4)[0]])
    decoded = playground.vae.decode(playground.vae.encode(images))
    assert psnr(images * 2 - 1, decoded * 2 - 1) > 22


def test_empty_latents_of_the_host_fit(playground):
    """Empty Latent Image counts in pixels; the sampler turns its 4 x 4 x 4 into 8 x 8 x 8."""
    latent = nodes.EmptyLatentImage().generate(32, 32, 1)[0]
    positive = playground.positive[0]
    out = nodes.common_ksampler(
        playground.model, 0, 1, 1.0, "euler", "normal", positive, positive, latent
    )
    assert out[0]["samples"].shape == (1, 8, 8, 8)


def test_the_host_makes_a_second_copy_of_the_weights(playground):
    """As its own trainer does, and again from a copy of a copy."""
    copy = playground.model.clone(force_deepcopy=True).clone(force_deepcopy=True)
    ours, theirs = playground.model.model_state_dict(), copy.model_state_dict()
    assert copy.model is not playground.model.model and ours.keys() == theirs.keys()
    for key, value in ours.items():
        assert torch.equal(value, theirs[key])
        assert value.data_ptr() != theirs[key].data_ptr(), key
    assert torch.equal(playground.forward(copy), playground.forward())


def test_the_hosts_own_trainer_takes_it(playground):
    given = {
        "batch_size": 1, "steps": 1, "grad_accumulation_steps": 1, "learning_rate": 1e-3, "rank": 2,
        "optimizer": "AdamW", "loss_function": "MSE", "seed": 0, "training_dtype": "none",
        "lora_dtype": "fp32", "quantized_backward": False, "algorithm": "LoRA",
        "gradient_checkpointing": False, "checkpoint_depth": 1, "offloading": False,
        "existing_lora": "[None]", "bucket_mode": False, "bypass_mode": True,
    }  # fmt: skip
    data = {"model": [playground.model], "latents": playground.latents[:1]}
    data |= {"positive": playground.positive[:1]}
    lora, losses, steps = nodes_train.TrainLoraNode.execute(
        **data, **{k: [v] for k, v in given.items()}
    ).result
    assert steps == 1 and len(losses["loss"]) == 1 and losses["loss"][0] > 0
    assert any(key.endswith("lora_up.weight") for key in lora)


def test_unknown_words_become_stable_rare_tokens():
    tokenizer = WordTokenizer(build_vocabulary(["koala, noto style, red background"]))
    known, unknown = tokenizer("Koala, red")["input_ids"], tokenizer("zorblax, red")["input_ids"]
    assert known[2:] == unknown[2:] and known[1] != unknown[1]
    assert tokenizer("zorblax")["input_ids"] == tokenizer("ZORBLAX")["input_ids"]


@pytest.mark.parametrize(("subject", "count"), [("owl", 40), ("bear plushie (photographs)", 5)])
def test_example_pictures(subject, count):
    images, captions = examples(subject, count)
    assert len(images) == len(captions) == count
    assert len({i.numpy().tobytes() for i in images}) == count
    assert all(i.min() >= 0 and i.max() <= 1 and i.shape[-1] == 3 for i in images)
    if subject == "owl":
        assert len(set(captions)) == count


@pytest.mark.parametrize(("subject", "count"), [("yeti", 1), ("owl", 0), ("owl", 41)])
def test_example_pictures_refuse(subject, count):
    with pytest.raises(ValueError, match="is 'yeti': choose |give a whole number from 1 to 40"):
        examples(subject, count)
