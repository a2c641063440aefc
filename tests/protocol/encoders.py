"""Toy encoders that know the playground's example subjects: a CLIP trained on their captions and a
ViT, in DINO's place, trained to tell them apart. Folders in the form of transformers, made in a
minute, so that the protocol runs with no download. What they say can't be compared with a paper's.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import comfy.sd1_clip
import torch
from torch import Tensor, nn
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTokenizer,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)

from lora2_core.playground import subjects

SIDE, PATCH, WIDTH, LAYERS = 32, 8, 96, 3
STEPS, BATCH, RATE = 500, 56, 1e-3
TOKENIZER = Path(comfy.sd1_clip.__file__).parent / "sd1_tokenizer"
SIZES = {
    "hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_attention_heads": 4,
    "num_hidden_layers": LAYERS,
}  # fmt: skip
VIEW = {"image_size": SIDE, "patch_size": PATCH, "num_channels": 3}


def all_pictures() -> tuple[Tensor, list[str]]:
    """Every subject in every style before every background: [560, 3, 32, 32] of -1 to 1."""
    found = [subjects.examples(name, subjects.MOST_PICTURES) for name in subjects.SUBJECTS]
    images = torch.stack([image for images, _ in found for image in images])
    return images.permute(0, 3, 1, 2) * 2 - 1, [text for _, texts in found for text in texts]


def moved(images: Tensor, generator: torch.Generator) -> Tensor:
    """The batch shifted by up to four pixels, with a little noise."""
    down, right = torch.randint(-4, 5, (2,), generator=generator).tolist()
    padded = nn.functional.pad(images, (4, 4, 4, 4), mode="replicate")
    cut = padded[:, :, 4 + down : 4 + down + SIDE, 4 + right : 4 + right + SIDE]
    return cut + 0.05 * torch.randn(cut.shape, generator=generator)


def fit(parameters, loss_of, seed: int) -> None:
    """AdamW on random batches of pictures."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.05)
    plan = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, STEPS)
    for _ in range(STEPS):
        picks = torch.randperm(len(subjects.SUBJECTS) * subjects.MOST_PICTURES, generator=generator)
        loss = loss_of(picks[:BATCH], generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        plan.step()


def make_clip(folder: Path) -> None:
    words = CLIPTokenizer.from_pretrained(TOKENIZER)
    text = SIZES | {"max_position_embeddings": 77, "vocab_size": 49408}
    text |= {"bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407}
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=SIZES | VIEW, projection_dim=64))
    images, texts = all_pictures()
    tokens = words(texts, padding=True, return_tensors="pt")

    def loss_of(picks: Tensor, generator: torch.Generator) -> Tensor:
        read = {k: v[picks] for k, v in tokens.items()}
        return model(pixel_values=moved(images[picks], generator), return_loss=True, **read).loss

    fit(model.parameters(), loss_of, seed=1)
    model.eval().save_pretrained(folder)
    words.save_pretrained(folder)
    even = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=SIDE, **even).save_pretrained(folder)


def make_dino(folder: Path) -> None:
    torch.manual_seed(0)
    model = ViTModel(ViTConfig(**SIZES, **VIEW), add_pooling_layer=False)
    head = nn.Linear(WIDTH, len(subjects.SUBJECTS))
    images, _ = all_pictures()

    def loss_of(picks: Tensor, generator: torch.Generator) -> Tensor:
        seen = model(pixel_values=moved(images[picks], generator)).last_hidden_state[:, 0]
        return nn.functional.cross_entropy(head(seen), picks // subjects.MOST_PICTURES)

    fit([*model.parameters(), *head.parameters()], loss_of, seed=2)
    model.eval().save_pretrained(folder)
    even = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    ViTImageProcessor(size={"height": SIDE, "width": SIDE}, **even).save_pretrained(folder)


def toy_encoders(folder: Path) -> tuple[Path, Path]:
    """(CLIP, DINO) below a folder, trained first where they are missing."""
    found = []
    for name, make in (("toy-clip", make_clip), ("toy-dino", make_dino)):
        found.append(folder / name)
        if not found[-1].is_dir():
            scratch = folder / f".{name}"
            shutil.rmtree(scratch, ignore_errors=True)
            with torch.inference_mode(False), torch.enable_grad():
                make(scratch)
            scratch.rename(found[-1])
    return found[0], found[1]


if __name__ == "__main__":
    print(*toy_encoders(Path(sys.argv[1])))
