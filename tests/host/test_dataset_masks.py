"""Masks of a folder's pictures: of -masklabel files and of transparency, cropped and mirrored as
the pictures are, up to the loss.
"""

import numpy as np
import pytest
import torch
from PIL import Image

import lora2_core.host.data.picture_masks as picture_masks
from lora2_core.dataset.crops import crops_of
from lora2_core.dataset.plan import DatasetSettings
from lora2_core.host.data.picture_masks import fitted_mask
from lora2_core.host.training.choices import Choices
from lora2_core.host.training.examples import Example
from lora2_core.host.training.masks import MaskSettings
from lora2_core.host.training.run import train_on
from tests.host.examples import with_masks

from .test_dataset import SMALL, dataset


def half(size=(32, 32)) -> Image.Image:
    """White on the left."""
    mask = Image.new("L", size)
    mask.paste(255, (0, 0, size[0] // 2, size[1]))
    return mask


def rewritten(path, alpha: Image.Image) -> None:
    """The picture with another transparency."""
    with Image.open(path) as image:
        clear = image.convert("RGBA")
    clear.putalpha(alpha)
    clear.save(path)


def test_a_mask_lies_on_its_picture(playground, folder):
    """One of a file, one of transparency, which a file overrules; ones elsewhere, as one tensor."""
    half().save(folder / "0-masklabel.png")
    rewritten(folder / "1.png", half())
    rewritten(folder / "2.png", half())
    half((64, 64)).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "2-masklabel.png")
    made = dataset(playground)
    assert [tuple(m.shape) for m in made.masks] == [(1, 8, 8)] * 4
    left = torch.zeros(1, 8, 8)
    left[..., :4] = 1
    assert torch.equal(made.masks[0], left) and torch.equal(made.masks[1], left)
    torch.testing.assert_close(made.masks[2], 1 - left, atol=0.1, rtol=0)  # scaled, so its edge too
    assert torch.equal(made.masks[3], torch.ones(1, 8, 8))
    assert "pictures 4, entries 4" in made.report
    assert "masks: 2 from -masklabel files, 1 from transparency, 1 without one\n" in made.report
    assert "0 of 4 latents, 0 of 4 captions, 0 of 3 masks" in made.report


def test_masks_change_no_latent(playground, folder):
    plain = dataset(playground)
    assert "masks" not in plain.report
    half().save(folder / "0-masklabel.png")
    masked = dataset(playground)
    assert "cache: 4 of 4 latents, 4 of 4 captions, 0 of 1 masks" in masked.report
    pairs = zip(plain.latents, masked.latents, strict=True)
    assert all(torch.equal(a["samples"], b["samples"]) for a, b in pairs)


def test_a_mask_is_remembered_by_its_content(playground, folder, monkeypatch):
    settings = DatasetSettings(resolution=32, flip=True, crops=1)
    half().save(folder / "0-masklabel.png")
    first = dataset(playground, settings)
    assert "0 of 4 masks" in first.report
    with monkeypatch.context() as patch:
        patch.setattr(picture_masks, "uncropped_mask", None)  # would fail if it were called
        second = dataset(playground, settings)
    assert "4 of 4 masks" in second.report
    assert all(torch.equal(a, b) for a, b in zip(first.masks, second.masks, strict=True))
    half().transpose(Image.Transpose.FLIP_TOP_BOTTOM).rotate(90).save(folder / "0-masklabel.png")
    third = dataset(playground, settings)
    assert "16 of 16 latents" in third.report and "0 of 4 masks" in third.report
    assert not torch.equal(first.masks[0], third.masks[0])


@pytest.mark.parametrize("size", [(90, 60), (41, 67)])
def test_crops_and_mirrors_are_the_pictures_own(playground, folder, size):
    """A white picture with a dark part, masked where it is dark: picture and mask agree in every
    crop, by the picture that the VAE is given.
    """
    seen = []
    encode = playground.vae.encode
    generator = np.random.default_rng(0)
    dark = np.zeros(size[::-1], bool)
    y, x = (int(generator.integers(0, n // 2)) for n in dark.shape)
    dark[y : y + size[1] // 3, x : x + size[0] // 3] = True
    for file in folder.iterdir():
        file.unlink()
    Image.fromarray(np.where(dark, 0, 255).astype(np.uint8)).save(folder / "a.png")
    Image.fromarray(np.where(dark, 255, 0).astype(np.uint8)).save(folder / "a-masklabel.png")

    def watched(image):
        seen.append(image)
        return encode(image)

    settings = DatasetSettings("owl", resolution=32, flip=True, crops=3)
    playground.vae.encode = watched
    try:
        made = dataset(playground, settings)
    finally:
        del playground.vae.encode
    assert len(made.masks) == len(seen) == 8
    for mask, image in zip(made.masks, seen, strict=True):
        height, width = mask.shape[-2:]
        places = 1 - image.mean(-1).reshape(height, 4, width, 4).mean(dim=(1, 3))
        assert (mask[0] - places).abs().mean() < 0.03


def test_a_box_is_taken_by_its_areas():
    """Against the definition, mirrored too."""
    mask = torch.rand(1, 1, 48, 64, generator=torch.Generator().manual_seed(0))
    plain, mirrored = crops_of((64, 48), (32, 32), extra=0, flip=True, seed="")
    assert (plain.left, plain.width, plain.height) == (8, 48, 48)
    expected = mask[0, 0, :, 8:56].reshape(8, 6, 8, 6).mean(dim=(1, 3))
    torch.testing.assert_close(fitted_mask(mask, plain, (8, 8))[0], expected)
    torch.testing.assert_close(fitted_mask(mask, mirrored, (8, 8))[0], expected.flip(-1))


def test_what_is_masked_out_everywhere_is_left_out(playground, folder):
    """A black mask skips its picture; a crop that misses what counts is no entry."""
    Image.new("L", (32, 32)).save(folder / "0-masklabel.png")
    rewritten(folder / "1.png", Image.new("L", (32, 32)))
    corner = Image.new("L", (32, 32))
    corner.putpixel((0, 0), 255)
    corner.save(folder / "2-masklabel.png")
    made = dataset(playground, DatasetSettings(resolution=32, crops=6))
    reason = "masked out: its mask is black, or the picture is transparent, in all of its crops"
    assert f"skipped: 2\n  0.png: {reason}" in made.report
    assert all(m.any() for m in made.masks)
    assert 7 < len(made.latents) == len(made.positive) == len(made.masks) < 14


def test_odd_masks(playground, folder):
    """16 bits, colours, and files that are no mask of any picture."""
    deep = np.zeros((32, 32), np.uint16)
    deep[:, :16] = 65535
    Image.fromarray(deep).save(folder / "0-masklabel.png")
    half().convert("RGB").save(folder / "1-masklabel.webp", lossless=True)
    half().save(folder / "gone-masklabel.png")
    (folder / "2-masklabel.png").write_bytes(b"no picture")
    made = dataset(playground)
    assert torch.equal(made.masks[0], made.masks[1]) and len(made.masks) == 3
    assert "gone-masklabel.png: a mask without its picture" in made.report
    assert "2.png: its mask is unreadable" in made.report


def test_a_mask_of_another_shape_is_named_before_anything_is_encoded(
    playground, folder, monkeypatch
):
    def encoded(*_):
        raise AssertionError("encoded bad input")

    monkeypatch.setattr(playground.vae, "encode", encoded)
    half((32, 20)).save(folder / "3-masklabel.png")
    with pytest.raises(ValueError) as error:
        dataset(playground)
    assert str(error.value) == (
        "3-masklabel.png is 32 x 20, another shape than 3.png of 32 x 32: crop it as its picture "
        "was cropped."
    )


def test_repeats_and_dropped_captions_keep_their_masks(playground, folder):
    (folder / "3_owl").mkdir()
    for name in ("0.png", "0.txt"):
        (folder / name).rename(folder / "3_owl" / name)
    half().save(folder / "3_owl" / "0-masklabel.png")
    made = dataset(playground, DatasetSettings(resolution=32, caption_dropout=0.5))
    masks = {x["samples"].data_ptr(): m for x, m in zip(made.latents, made.masks, strict=True)}
    masked = [float(m.mean()) for m in masks.values()]
    assert sorted(masked) == [0.5, 1, 1, 1] and len(made.masks) == 12
    for latent, mask in zip(made.latents, made.masks, strict=True):
        assert torch.equal(masks[latent["samples"].data_ptr()], mask)


def test_they_reach_the_loss(nodes, playground, folder):
    """Through LoRA² Data Options into training: other pixels outside the mask, the same adapter."""
    for index in range(4):
        half().save(folder / f"{index}-masklabel.png")
    made = dataset(playground)
    widgets = {"prior_weight": [1.0], "mask_blur": [0.0], "mask_floor": [0.0]}
    (options,) = nodes["LoRA2DataOptions"].execute(masks=made.masks, **widgets).result
    fields = {"steps": 3, "learning_rate": 1e-2, "mode": "fixed", "target_rank": 2, "seed": 0}
    run = Choices.of(options | fields)
    assert run.mask == MaskSettings(mask_floor=0.0) and run.mask.facts()["masked_loss"]
    out = train_on(playground.model, made.latents, made.positive, run, lambda step: None)
    whole = Choices.of(fields)
    plain = train_on(playground.model, made.latents, made.positive, whole, lambda step: None)
    assert out.losses != plain.losses
    assert out.lora.origin.run.settings["masked_loss"] is True
    with torch.inference_mode(False):
        latents = [x["samples"].clone() for x in made.latents]
        items = with_masks([Example(latent, {}) for latent in latents], run.mask)
    row = torch.tensor([2.0] * 4 + [0.0] * 4)
    assert all(torch.equal(i.weights[0, 0], row.expand(8, 8)) for i in items)


def test_captions_of_other_trainers(playground, folder):
    """.caption files, and the name of a folder where nothing else is said."""
    (folder / "0.txt").rename(folder / "0.caption")
    (folder / "1.caption").write_text("never read", encoding="utf-8")
    (folder / "2_tawny owl").mkdir()
    (folder / "3.txt").unlink()
    (folder / "3.png").rename(folder / "2_tawny owl" / "3.png")
    made = dataset(playground, DatasetSettings(resolution=32))
    assert "captions: 2 from .txt files, 1 from .caption files, 1 from folder names" in made.report
    encoded = [
        playground.clip.encode_from_tokens_scheduled(playground.clip.tokenize(text))[0][0]
        for text in ("tawny owl", (folder / "0.caption").read_text(encoding="utf-8"))
    ]
    for place, wanted in ((0, encoded[1]), (3, encoded[0]), (4, encoded[0])):
        assert torch.equal(made.positive[place][0][0], wanted)
    made = dataset(playground, SMALL)
    assert "1 without one: 'owl, noto style'" in made.report
