"""The playground's pictures: emoji artwork of four styles, by package name from the npm registry.

`python -m tests.playground.pictures FOLDER` downloads the packages (npm pack), draws every chosen
label in every style at 32 x 32 RGBA and writes FOLDER/pictures.npz (images uint8 [N, 32, 32, 4])
and FOLDER/pictures.json ([label, style, group, subgroup] a row).

Artwork: Noto Emoji (Apache-2.0), Fluent Emoji flat and 3D (MIT), Twemoji (CC-BY-4.0); names and
groups from Emojibase (MIT). See the credits in README.md.
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from PIL import Image

from lora2_core.playground.subjects import FOLDER, SIZE, STYLES, SUBJECTS

PACKAGES = {
    "names": "emojibase-data@17.0.0",
    "noto": "@iconify-json/noto@1.2.9",
    "fluent-flat": "@iconify-json/fluent-emoji-flat@1.2.6",
    "twemoji": "@iconify-json/twemoji@1.2.5",
    "fluent-3d": "@lobehub/fluent-emoji-3d@1.1.0",
}
SUBGROUPS = {
    "animal-mammal", "animal-bird", "animal-marine", "animal-reptile", "animal-amphibian",
    "food-fruit", "food-prepared", "food-sweet", "drink", "sport", "heart", "clothing",
    "face-costume",
}  # fmt: skip


def download(folder: Path) -> dict[str, Path]:
    """Fetches and unpacks each package once; returns the folder of each."""
    if shutil.which("npm") is None:
        raise SystemExit(
            "npm is needed to fetch the artwork: install Node.js (Debian: apt-get install npm)."
        )
    found = {}
    for name, package in PACKAGES.items():
        target = folder / name
        if not target.exists():
            done = subprocess.run(
                ["npm", "pack", "--silent", package],
                cwd=folder,
                check=True,
                capture_output=True,
                text=True,
            )
            with tarfile.open(folder / done.stdout.split()[-1]) as archive:
                archive.extractall(target, filter="data")
        found[name] = target / "package"
    return found


def draw_svg(icons: dict, name: str) -> np.ndarray:
    """One Iconify icon as RGBA uint8 [32, 32, 4], drawn at four times the size and averaged
    down.
    """
    import resvg_py

    icon = icons["icons"][name]
    width, height = (icon.get(k, icons.get(k, 16)) for k in ("width", "height"))
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{SIZE * 4}" height="{SIZE * 4}">{icon["body"]}</svg>'
    )
    png = resvg_py.svg_to_bytes(svg_string=svg)
    return shrink(Image.open(io.BytesIO(bytes(png))))


def shrink(image: Image.Image) -> np.ndarray:
    """Any image to RGBA uint8 [32, 32, 4], filtered with premultiplied alpha."""
    small = image.convert("RGBa").resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    return np.asarray(small.convert("RGBA"))


def draw_all(folder: Path) -> tuple[np.ndarray, list[list[str]]]:
    """Every chosen label that all four styles have: RGBA pictures and [label, style, group,
    subgroup].
    """
    packages = download(folder)
    names = json.loads((packages["names"] / "en/data.json").read_text())
    groups = json.loads((packages["names"] / "meta/groups.json").read_text())
    read = {
        s: [json.loads((packages[s] / f).read_text()) for f in ("chars.json", "icons.json")]
        for s in STYLES[:3]
    }
    pictures, rows = [], []
    for emoji in names:
        label, code = emoji["label"], emoji["hexcode"].lower()
        subgroup = groups["subgroups"].get(str(emoji.get("subgroup")), "")
        if label not in SUBJECTS and (subgroup not in SUBGROUPS or len(label.split()) > 3):
            continue
        codes = (code, code.replace("-fe0f", ""))
        drawn = {}
        for style, (chars, icons) in read.items():
            name = next((chars[c] for c in codes if c in chars), None)
            if name in icons["icons"]:
                drawn[style] = draw_svg(icons, name)
        webp = next(
            (p for c in codes if (p := packages["fluent-3d"] / f"assets/{c}.webp").exists()), None
        )
        if webp is not None:
            drawn["fluent-3d"] = shrink(Image.open(webp))
        if set(drawn) != set(STYLES):
            continue
        for style in STYLES:
            pictures.append(drawn[style])
            rows.append([label, style, groups["groups"][str(emoji["group"])], subgroup])
    return np.stack(pictures), rows


def to_images(pictures: np.ndarray) -> torch.Tensor:
    """uint8 [N, H, W, 3] to [N, 3, H, W] in [-1, 1]."""
    return rearrange(torch.from_numpy(pictures).float() / 127.5 - 1, "n h w c -> n c h w")


def load(folder: Path) -> tuple[np.ndarray, list[list[str]]]:
    """The pictures and rows of FOLDER, drawn first if they are not there yet."""
    if not (folder / "pictures.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        pictures, rows = draw_all(folder)
        np.savez_compressed(folder / "pictures.npz", images=pictures)
        (folder / "pictures.json").write_text(json.dumps(rows))
    with np.load(folder / "pictures.npz") as archive:
        return archive["images"], json.loads((folder / "pictures.json").read_text())


def write_atlas(pictures: np.ndarray, rows: list[list[str]]) -> None:
    """subjects.png of the pack: a row a left-out subject, a column a style."""
    found = {(row[0], row[1]): picture for row, picture in zip(rows, pictures, strict=True)}
    atlas = np.concatenate(
        [np.concatenate([found[s, style] for style in STYLES], 1) for s in SUBJECTS]
    )
    Image.fromarray(atlas).save(FOLDER / "subjects.png", optimize=True)


if __name__ == "__main__":
    images, table = load(Path(sys.argv[1]))
    write_atlas(images, table)
    print(f"{len({r[0] for r in table})} labels, {len(images)} pictures in {sys.argv[1]}")
