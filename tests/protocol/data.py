"""A folder in DreamBooth's layout, drawn from the playground's example pictures."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from lora2_core.playground import subjects

SUBJECTS = ("fox", "owl", "rocket", "strawberry")
PICTURES = 8
PROMPTS = (
    ("noto", "blue"), ("twemoji", "yellow"), ("fluent-flat", "green"), ("fluent-3d", "white"),
    ("noto", "pink"), ("twemoji", "black"),
)  # fmt: skip


def write_data(folder: Path, names: tuple[str, ...] = SUBJECTS, pictures: int = PICTURES) -> Path:
    """Pictures with captions for every subject, and prompts_and_classes.txt; the folder."""
    for name in names:
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        images, captions = subjects.examples(name, pictures)
        for i, (image, caption) in enumerate(zip(images, captions, strict=True)):
            pixels = (image.numpy() * 255).round().astype(np.uint8)
            Image.fromarray(pixels).save(place / f"{i:02}.png")
            (place / f"{i:02}.txt").write_text(caption, encoding="utf-8")
    classes = "\n".join(f"{name},{name}" for name in names)
    prompts = ",\n".join(
        f"'{{1}}, {style} style, {colour} background'.format(unique_token, class_token)"
        for style, colour in PROMPTS
    )
    text = f"Classes\n\nsubject_name,class\n{classes}\n\nPrompts\n\nprompt_list = [\n{prompts}\n]\n"
    (folder / "prompts_and_classes.txt").write_text(text, encoding="utf-8")
    return folder


if __name__ == "__main__":
    write_data(Path(sys.argv[1]))
