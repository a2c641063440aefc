"""Edit pairs: a picture is learned from its source and the instruction. The source reaches the
model as the host's own nodes give it, cropped and mirrored as the picture is.
"""

import numpy as np
import pytest
import torch
from PIL import Image

from lora2_core.dataset.plan import DatasetSettings
from lora2_core.host.data.folder_dataset import make_dataset
from lora2_core.host.training.choices import Choices
from lora2_core.host.training.examples import make_examples
from lora2_core.host.training.loan import on_loan
from lora2_core.host.training.objective import Draw, loss_of
from lora2_core.host.training.pictures import Pictures
from lora2_core.host.training.run import train_on
from lora2_core.layers.adapters import attach
from lora2_core.ranks.settings import RankSettings
from tests.host.kept import quiet
from tests.models.build import build
from tests.models.data import data_for
from tests.tiers import fast

PAIR = DatasetSettings(resolution=32, flip=True, crops=1)


@pytest.fixture
def pairs(folder):
    """Each picture of the folder beside its source: the same, but for the last of its bytes."""
    for path in sorted(folder.glob("?.png")):
        Image.open(path).save(path.with_name(f"{path.stem}_source.png"), compress_level=1)
    return folder


def made(playground, settings=PAIR, **changes):
    settings = DatasetSettings(**(vars(settings) | changes))
    return make_dataset("owl", playground.clip, playground.vae, settings, lambda done, of: None)


def test_a_source_is_cropped_and_mirrored_as_its_picture(playground, pairs):
    """A source that is the same picture gives the same latents."""
    found = made(playground)
    assert len(found.latents) == len(found.positive) == 16, "sources are no pictures"
    for latent, entry in zip(found.latents, found.positive, strict=True):
        (source,) = entry[0][1]["reference_latents"]
        assert torch.equal(source, latent["samples"])
    assert "sources: 4, as reference latents" in found.report
    again = made(playground)
    assert "cache: 32 of 32 latents, 4 of 4 captions" in again.report


def test_a_conditioning_is_that_of_the_hosts_nodes(playground, pairs):
    from comfy_extras.nodes_edit_model import ReferenceLatent

    found = made(playground, flip=False, crops=0)
    image = torch.from_numpy(np.asarray(Image.open(pairs / "0_source.png")).copy()) / 255
    latent = {"samples": playground.vae.encode(image[None])}
    (wanted,) = ReferenceLatent.execute(playground.positive[0], latent).result
    (theirs, facts), (ours, own) = wanted[0], found.positive[0][0]
    assert torch.equal(theirs, ours) and facts.keys() <= own.keys()
    for one, other in zip(facts["reference_latents"], own["reference_latents"], strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_sources_may_lie_in_a_folder_of_their_own(playground, pairs):
    beside = made(playground)
    other = pairs.parent / "before"
    other.mkdir()
    for path in pairs.glob("*_source.png"):
        path.rename(other / path.name.replace("_source", ""))
    (other / "9.png").write_bytes((other / "0.png").read_bytes())
    apart = made(playground, source_folder="before")
    assert "before/9.png: a source without its picture" in apart.report
    for one, two in zip(beside.positive, apart.positive, strict=True):
        assert torch.equal(*(e[0][1]["reference_latents"][0] for e in (one, two)))


def test_a_source_of_another_shape_keeps_it(playground, pairs):
    Image.new("RGB", (96, 48), "red").save(pairs / "0_source.png")
    found = made(playground, crops=0)
    shapes = [entry[0][1]["reference_latents"][0].shape[-2:] for entry in found.positive]
    assert shapes[0] == shapes[1] != shapes[2], "in a bucket of its own"


def test_several_sources_come_in_their_order(playground, pairs):
    for number in range(4):
        Image.new("RGB", (32, 32), "red").save(pairs / f"{number}_source2.png")
    latents = made(playground, flip=False, crops=0).positive[0][0][1]["reference_latents"]
    red = playground.vae.decode(latents[1])
    assert len(latents) == 2 and red[..., 0].mean() > 0.9 and red[..., 1:].mean() < 0.1


SENTENCES = {
    "no source": "There is no source for 2.png: put 2_source.png beside it, or take the picture ",
    "no pairs": "There is no source for 0.png: put 0_source.png beside it, or take the picture ",
    "no folder": "There is no folder 'gone' in the input folder",
    "too many": "0.png has 2 sources, but references Qwen-Image-Edit takes 1.",
    "no mask": "There is no mask for 0.png, which references inpaint needs: paint what is to be ",
    "both": "0.png has a source, but references inpaint takes masks alone.",
}


@pytest.mark.parametrize("fault", SENTENCES)
def test_what_is_missing_is_one_sentence(playground, pairs, fault: str):
    changes = {
        "no folder": {"source_folder": "gone"}, "too many": {"references": "Qwen-Image-Edit"},
        "no mask": {"references": "inpaint"}, "both": {"references": "inpaint"},
        "no pairs": {"references": "reference latents"},
    }.get(fault, {})  # fmt: skip
    if fault == "no source":
        (pairs / "2_source.png").unlink()
    if fault in ("no pairs", "no mask"):
        for path in pairs.glob("*_source.png"):
            path.unlink()
    if fault == "too many":
        Image.new("RGB", (32, 32)).save(pairs / "0_source2.png")
    if fault == "both":
        for number in range(4):
            Image.new("L", (32, 32), 255).save(pairs / f"{number}-masklabel.png")
    with pytest.raises(ValueError) as caught:
        made(playground, **changes)
    assert str(caught.value).startswith(SENTENCES[fault]) and "\n" not in str(caught.value)


def test_sources_alone_are_pictures_as_ever(playground, folder):
    (folder / "0.png").rename(folder / "owl_source.png")
    (folder / "0.txt").rename(folder / "owl_source.txt")
    assert "owl: pictures 4, entries 16" in made(playground).report


def test_what_is_to_be_painted_is_masked_as_the_host_does(playground, folder):
    """InpaintModelConditioning of the host, crop by crop."""
    from nodes import InpaintModelConditioning

    for number in range(4):
        mask = np.zeros((32, 32), np.uint8)
        mask[4:20, 8:] = 255
        Image.fromarray(mask).save(folder / f"{number}-masklabel.png")
    found = made(playground, flip=False, crops=0, references="inpaint")
    assert "to fill in: what is white in the masks" in found.report
    image = torch.from_numpy(np.asarray(Image.open(folder / "0.png")).copy())[None] / 255
    mask = torch.from_numpy(mask)[None] / 255
    theirs, _, _ = InpaintModelConditioning().encode(
        playground.positive[0], playground.positive[0], image, playground.vae, mask, False
    )
    for name in ("concat_latent_image", "concat_mask"):
        ours = found.positive[0][0][1][name]
        assert torch.allclose(ours, theirs[0][1][name], atol=1e-5), name
    assert (
        "cache: 4 of 4 latents"
        in made(playground, flip=False, crops=0, references="inpaint").report
    )


def inpainting(name: str):
    """A UNet with the mask and the masked picture beside the noise, as the host knows them."""
    from tests.models import shapes

    before = shapes.SHAPES.get(name, {})
    shapes.SHAPES[name] = before | {"in_channels": 9}
    try:
        model = build(name)
    finally:
        shapes.SHAPES[name] = before
    model.model.set_inpaint()
    return model


EDITS = {  # model -> what the source is in its conditioning
    "Flux": "reference_latents", "Flux2": "reference_latents", "QwenImage": "reference_latents",
    "Krea2": "reference_latents", "Omnigen2": "reference_latents",
    "FluxInpaint": "concat", "SD15 inpainting": "concat",
    "SD15_instructpix2pix": "concat_latent_image", "SDXL_instructpix2pix": "concat_latent_image",
}  # fmt: skip


def with_source(name: str, seed: int):
    """A model with one example that has a random source."""
    inner = name.removesuffix(" inpainting")
    model = inpainting(inner) if inner != name else build(inner)
    latents, positive = data_for(inner, model)
    shape = latents[0]["samples"].shape
    source = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    kind = EDITS[name]
    given = {"reference_latents": [source]} if kind[0] == "r" else {"concat_latent_image": source}
    if name == "Krea2":
        given["reference_latents_method"] = "index_timestep_zero"
    if kind == "concat":
        given["concat_mask"] = (torch.arange(64) < 32).float().expand(1, 1, 64, 64)
    ((cross, facts),) = positive[0]
    return model, latents, [[[cross, facts | given]]]


def loss_and_slope(name: str, seed: int) -> tuple[float, float, float]:
    """The loss at one noise, the length of a layer's gradient, and the slope along it."""
    model, latents, positive = with_source(name, seed)
    with on_loan(model) as inner:
        examples = make_examples(model, inner, Pictures.of(model, latents, positive))
        layers = Choices.of({}).target.chosen(inner)
        adapters = attach(inner, layers, RankSettings(mode="fixed", target_rank=2))
        generator = torch.Generator().manual_seed(2)
        try:
            noise = torch.randn(examples[0].latent.shape, generator=generator)
            sigma = torch.tensor([float(inner.model_sampling.sigma_max) * 0.5])
            with torch.no_grad():
                for c in adapters.components.values():
                    c.lora_up.normal_(0, 0.1, generator=generator)

            def loss():
                return loss_of(inner, Draw(examples, noise, sigma), {})

            loss().backward()
            learned = [c for c in adapters.components.values() if c.lora_up.grad is not None]
            some = max(learned, key=lambda c: float(c.lora_up.grad.norm()))
            grad, ends = some.lora_up.grad.clone(), []
            step = 1e-2 / float(grad.norm())
            with torch.no_grad():
                for way in (step, -2 * step):
                    some.lora_up += way * grad
                    ends.append(float(loss()))
            return float(loss().detach()), float(grad.norm()), (ends[0] - ends[1]) / 2e-2
        finally:
            adapters.detach()


@pytest.mark.parametrize("name", fast(EDITS, "Flux2", "SD15 inpainting"))
def test_training_uses_the_source(name: str):
    """The loss changes with the source, its gradient is its slope, and a run ends well."""
    with torch.inference_mode(False):
        first, second = loss_and_slope(name, 1), loss_and_slope(name, 2)
    assert abs(first[0] - second[0]) > 1e-6 * abs(first[0]), "the loss does not know the source"
    for _, length, slope in (first, second):
        assert slope == pytest.approx(length, rel=0.03, abs=1e-4)
    model, latents, positive = with_source(name, 1)
    fields = {"steps": 2, "mode": "fixed", "target_rank": 2, "learning_rate": 1e-2}
    out = train_on(model, latents, positive, Choices.of(fields), quiet)
    assert out.stopped_by is None and all(map(np.isfinite, out.losses))


def test_captions_that_saw_their_sources_train_no_text_encoder(playground):
    from lora2_core.host.data.references import SEEN

    positive = [[[cross, facts | {SEEN: True}]] for ((cross, facts),) in playground.positive]
    choices = Choices.of({"steps": 1, "clip": playground.clip})
    with pytest.raises(ValueError, match="The text encoder has seen the sources of positive"):
        train_on(playground.model, playground.latents, positive, choices, quiet)


@pytest.mark.parametrize("name", fast(["SDXL", "Krea2"]))
def test_a_model_that_looks_at_no_reference_is_refused(name: str):
    """Krea 2 looks at none where its conditioning does not say how."""
    model = build(name)
    latents, positive = data_for(name, model)
    positive[0][0][1]["reference_latents"] = [latents[0]["samples"]]
    with pytest.raises(ValueError, match="This model does not use the reference latents of posi"):
        train_on(model, latents, positive, Choices.of({"steps": 1}), quiet)
