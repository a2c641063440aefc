"""LoRA² Evaluate and Compare on small random encoders, against transformers' own computation."""

import comfy.clip_vision
import comfy.sd
import comfy.sdxl_clip
import folder_paths
import numpy as np
import pytest
import torch
from comfy.supported_models_base import ClipTarget
from PIL import Image
from safetensors.torch import load_file
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTokenizer,
    Dinov2Config,
    Dinov2Model,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)

from lora2_core.host.encoders import image_features, text_features
from lora2_core.host.local_encoders import clip_features, dino_features
from lora2_core.playground import subjects

SIDE, WIDTH = 56, 64
PROMPTS = ["a photo of an owl (at night)", "an owl on a red bus", "a: b"]
TEXT = {"hidden_size": WIDTH, "intermediate_size": 128, "num_attention_heads": 4,
        "num_hidden_layers": 3, "hidden_act": "gelu"}  # fmt: skip
VISION = TEXT | {"image_size": SIDE, "patch_size": 14}
CLOSE = {"abs": 1e-5, "rel": 0}


def randomise(model: torch.nn.Module, seed: int) -> None:
    """Weights large enough that features differ from picture to picture; all fit fp16."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            scale = 1.0 if value.ndim == 1 and "weight" in name else 0.0
            drawn = torch.randn(value.shape, generator=generator) * 0.15 + scale
            value.copy_(drawn.half().float())


@pytest.fixture(scope="module")
def towers() -> CLIPModel:
    """transformers' CLIP, both projections as wide as the towers."""
    vision = VISION | {"num_channels": 3}
    text = TEXT | {"max_position_embeddings": 77, "eos_token_id": 49407, "bos_token_id": 49406}
    text |= {"vocab_size": 49408, "pad_token_id": 49407}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH)
    with torch.inference_mode(False), torch.no_grad():
        model = CLIPModel(config).eval()
        randomise(model, 0)
    return model


@pytest.fixture(scope="module")
def dinov2() -> Dinov2Model:
    config = Dinov2Config(
        hidden_size=WIDTH, num_hidden_layers=3, num_attention_heads=4, image_size=SIDE,
        patch_size=14, mlp_ratio=4,
    )  # fmt: skip
    with torch.inference_mode(False), torch.no_grad():
        model = Dinov2Model(config).eval()
        randomise(model, 1)
    return model


def host_vision(model: torch.nn.Module, folder, **config):
    """The host's CLIP_VISION with the weights of a file that transformers writes."""
    model.save_pretrained(folder)
    vision = comfy.clip_vision.ClipVisionModel(VISION | {"num_channels": 3} | config)
    missing, _ = vision.load_sd(load_file(folder / "model.safetensors"))
    assert not missing
    return vision


@pytest.fixture(scope="module")
def clip_vision(towers, tmp_path_factory):
    folder = tmp_path_factory.mktemp("towers")
    return host_vision(towers, folder, model_type="clip_vision_model", projection_dim=WIDTH)


@pytest.fixture(scope="module")
def dino(dinov2, tmp_path_factory):
    folder = tmp_path_factory.mktemp("dinov2")
    mean, std = ViTImageProcessor().image_mean, ViTImageProcessor().image_std
    config = {"layer_norm_eps": 1e-6, "use_swiglu_ffn": False, "image_mean": mean}
    return host_vision(dinov2, folder, model_type="dinov2", image_std=std, **config)


@pytest.fixture(scope="module")
def clip(towers):
    """The host's SDXL text encoder, whose second tower has the weights of the CLIP."""
    options = {"clip_l_model_config": TEXT, "clip_g_model_config": TEXT, "dtype": torch.float32}
    target = ClipTarget(comfy.sdxl_clip.SDXLTokenizer, comfy.sdxl_clip.SDXLClipModel)
    found = comfy.sd.CLIP(target, model_options=options)
    tower = found.cond_stage_model.clip_g.transformer
    assert not tower.load_state_dict(towers.state_dict(), strict=False).missing_keys
    first = found.cond_stage_model.clip_l.transformer
    first.load_state_dict(tower.state_dict())
    return found


@pytest.fixture(scope="module")
def drawn() -> torch.Tensor:
    """Six pictures [6, 56, 56, 3], as fine as files have them: so nothing is scaled or rounded."""
    return scaled("fox", SIDE)


@pytest.fixture(scope="module")
def real() -> torch.Tensor:
    return scaled("owl", SIDE)[:4]


def scaled(subject: str, side: int) -> torch.Tensor:
    images, _ = subjects.examples(subject, 6)
    files = [Image.fromarray((i.numpy() * 255).round().astype(np.uint8)) for i in images]
    return torch.stack([torch.from_numpy(np.array(f.resize((side, side)))) for f in files]) / 255


def pixels(images: torch.Tensor, processor) -> torch.Tensor:
    files = [Image.fromarray(i) for i in (images.numpy() * 255).round().astype(np.uint8)]
    return processor(images=files, return_tensors="pt")["pixel_values"]


CLIP_PIXELS = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=SIDE)
VIT_PIXELS = ViTImageProcessor(
    size={"height": SIDE, "width": SIDE}, image_mean=[0.5] * 3, image_std=[0.5] * 3
)


def pair_mean(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a[:, None], b[None], dim=-1).mean())


def clip_by_transformers(towers, drawn, real) -> tuple[float, float]:
    """CLIP-I and CLIP-T through transformers' own heads, two pictures a prompt."""
    words = CLIPTokenizer.from_pretrained(TOKENIZER)
    both = [pixels(x, CLIP_PIXELS) for x in (drawn, real)]
    text = words(PROMPTS, padding=True, return_tensors="pt")
    seen = towers(pixel_values=both[0], **text)
    known = towers(pixel_values=both[1], **text)
    image = pair_mean(seen.image_embeds, known.image_embeds)
    pairs = seen.image_embeds.view(3, 2, -1), seen.text_embeds[:, None]
    return image, float(torch.nn.functional.cosine_similarity(*pairs, dim=-1).mean())


TOKENIZER = next(iter(comfy.__path__)) + "/sd1_tokenizer"


@pytest.fixture
def encoders_folder(tmp_path, monkeypatch, towers):
    """models/clip_vision with a CLIP and a DINO in the form of transformers."""
    monkeypatch.setattr(folder_paths, "get_folder_paths", lambda kind: [str(tmp_path)])
    towers.save_pretrained(tmp_path / "clip")
    CLIP_PIXELS.save_pretrained(tmp_path / "clip")
    CLIPTokenizer.from_pretrained(TOKENIZER).save_pretrained(tmp_path / "clip")
    size = {"image_size": SIDE, "patch_size": 8, "hidden_size": WIDTH, "num_hidden_layers": 2}
    with torch.inference_mode(False), torch.no_grad():
        vit = ViTModel(ViTConfig(**size, num_attention_heads=4, intermediate_size=128)).eval()
        randomise(vit, 2)
        vit.save_pretrained(tmp_path / "vit")
    VIT_PIXELS.save_pretrained(tmp_path / "vit")
    return tmp_path


@pytest.fixture
def evaluate(nodes):
    """The node as the executor calls it: every input a list."""

    def go(images, references, prompts, name, **inputs):
        lists = {k: [v] for k, v in inputs.items()}
        return nodes["LoRA2Evaluate"].execute([images], [references], [prompts], [name], **lists)

    return go


def test_the_hosts_encoders_score_as_transformers_does(
    evaluate, towers, dinov2, clip_vision, clip, dino, drawn, real
):
    encoders = {"clip_vision": clip_vision, "clip": clip, "dino": dino}
    out = evaluate(drawn, real, "\n".join(PROMPTS), "fox", **encoders)
    (scored,), table, *numbers = out.result
    image, text = clip_by_transformers(towers, drawn, real)
    mean, std = torch.tensor(dino.image_mean), torch.tensor(dino.image_std)
    seen, known = (
        dinov2(pixel_values=((x - mean) / std).permute(0, 3, 1, 2)).last_hidden_state[:, 0]
        for x in (drawn, real)
    )
    assert numbers == pytest.approx([pair_mean(seen, known), image, text], **CLOSE)
    assert list(vars(scored.score).values()) == numbers and scored.name == "fox"
    assert min(abs(n) for n in numbers) > 1e-3 and max(numbers) < 0.999, "not all alike"
    assert len(table.splitlines()) == 2 + len(PROMPTS) + 1


def test_a_folder_scores_as_transformers_does(evaluate, encoders_folder, towers, drawn, real):
    vit = ViTModel.from_pretrained(encoders_folder / "vit").eval()
    folders = {"clip_folder": "clip", "dino_folder": "vit"}
    out = evaluate(drawn, real, "\n".join(PROMPTS), "fox", **folders)
    image, text = clip_by_transformers(towers, drawn, real)
    seen, known = (
        vit(pixel_values=pixels(x, VIT_PIXELS)).last_hidden_state[:, 0] for x in (drawn, real)
    )
    assert out.result[2:] == pytest.approx((pair_mean(seen, known), image, text), **CLOSE)


def test_scaling_differs_little_between_host_and_transformers(clip_vision, towers, encoders_folder):
    """The host scales by torch, transformers' processors by their own filter."""
    large = scaled("owl", 131)
    ours = image_features(clip_vision)(large)
    theirs = clip_features(encoders_folder / "clip")[0](large)
    apart = torch.nn.functional.cosine_similarity(ours, theirs)
    assert apart.min() > 0.999


def test_what_is_measured_goes_to_compare(nodes, evaluate, clip_vision, drawn, real):
    first = evaluate(drawn, real, "an owl", "one", clip_vision=clip_vision)
    assert np.isnan(first.result[2]) and np.isnan(first.result[4])
    second = evaluate(real, real, "an owl", "two", clip_vision=clip_vision, scores=first.result[0])
    assert second.result[3] > first.result[3], "pictures are more like themselves"
    chart, table, csv = nodes["LoRA2Compare"].execute(second.result[0], "Owls").result
    assert chart.shape[0] == 1 and chart.shape[-1] == 3 and 0 <= chart.min() < chart.max() <= 1
    assert [line.split(",")[0] for line in csv.splitlines()] == ["name", "one", "two"]
    assert table.splitlines()[0] == "| | MB | CLIP-I |"


def test_foreign_models_are_named(nodes, evaluate, clip_vision, dino, drawn, real):
    given = drawn, real, "an owl", "x"
    with pytest.raises(ValueError, match="clip_vision is a dinov2 model"):
        evaluate(*given, clip_vision=dino)
    with pytest.raises(ValueError, match="dino is a clip_vision_model"):
        evaluate(*given, dino=clip_vision)
    with pytest.raises(ValueError, match="no encoder to judge with"):
        evaluate(*given)
    with pytest.raises(ValueError, match="images can't be shared"):
        evaluate(drawn, real, "a\nb\nc\nd", "x", clip_vision=clip_vision)
    with pytest.raises(ValueError, match=r"scores is \['x'\]: connect LoRA2 Evaluate"):
        nodes["LoRA2Compare"].execute(["x"], "y")
    with pytest.raises(ValueError, match="prompts is empty"):
        evaluate(drawn, real, " \n", "x", clip_vision=clip_vision)
    with pytest.raises(ValueError, match="lora2 is 'x': connect LoRA2 Train"):
        evaluate(*given, clip_vision=clip_vision, lora2="x")


def test_towers_of_different_models_are_refused(playground, clip_vision, towers):
    with pytest.raises(ValueError, match="clip has .* but clip_vision's are 64"):
        text_features(playground.clip, clip_vision)


def test_folders_of_other_things_are_named(encoders_folder, evaluate, drawn, real):
    with pytest.raises(ValueError, match="holds a CLIP: choose it as clip_folder"):
        dino_features(encoders_folder / "clip")
    with pytest.raises(ValueError, match="holds no CLIP"):
        clip_features(encoders_folder / "vit")
    with pytest.raises(ValueError, match="There is no folder '../vit'"):
        evaluate(drawn, real, "an owl", "x", dino_folder="../vit")
    weights = encoders_folder / "vit" / "model.safetensors"
    weights.rename(weights.with_name("pytorch_model.bin"))
    with pytest.raises(ValueError, match="has no .safetensors"):
        dino_features(encoders_folder / "vit")
