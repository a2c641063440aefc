"""Captions and masks are found beside their pictures, however people's systems name and write them;
what belongs to no picture is told.
"""

import os
from pathlib import Path
from unicodedata import normalize

import pytest
from PIL import Image

from lora2_core.dataset.beside import text_of
from lora2_core.dataset.folder import scan
from lora2_core.dataset.plan import DatasetSettings, check_count, plan
from lora2_core.dataset.reading import Unusable
from lora2_core.dataset.report import report
from lora2_core.dataset.walking import state, with_pictures

NFC, NFD = normalize("NFC", "né"), normalize("NFD", "né")


def made(root: Path, *names: str) -> Path:
    """A folder of files: pictures, and texts that say their own name."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() in (".txt", ".caption"):
            path.write_text(path.name)
        else:
            Image.new("RGB", (64, 64), "red").save(path, "png")
    return root


@pytest.mark.parametrize(
    ("picture", "caption"),
    [
        ("b.png", "b.TXT"), ("b.png", "b.Caption"), ("B.PNG", "b.txt"), ("b.png", "B.txt"),
        (f"{NFC}.png", f"{NFD}.txt"), (f"{NFD}.png", f"{NFC}.txt"), (f"{NFC}.png", f"{NFD}.TXT"),
        ("a.jpg", "a.jpg.txt"), ("a.JPG", "a.jpg.txt"), (f"{NFD}.jpg", f"{NFC}.JPG.Txt"),
        ("a.b.png", "a.b.txt"), ("a b .png", "a b .txt"), ("2_x/é.jpeg", "2_x/É.txt"),
        ("a.jfif", "a.txt"), ("a.avif", "a.txt"), ("a.txt.png", "a.txt.txt"),
    ],
)  # fmt: skip
def test_a_caption_is_found(tmp_path, picture: str, caption: str):
    found = scan(made(tmp_path, picture, caption))
    assert [p.caption for p in found.pictures] == [Path(caption).name]
    assert not found.skipped and not found.unused and not found.others


@pytest.mark.parametrize(
    "mask",
    ["né-masklabel.PNG", f"{NFD}-masklabel.png", "né-MaskLabel.png", "NÉ-masklabel.webp",
     "né.jpg-masklabel.png"],
)  # fmt: skip
def test_a_mask_is_found(tmp_path, mask: str):
    found = scan(made(tmp_path, f"{NFC}.jpg", mask))
    assert [p.mask for p in found.pictures] == [tmp_path / mask]
    assert not found.skipped and not found.unused


def test_names_that_differ_in_capitals_only_keep_their_own(tmp_path):
    found = scan(made(tmp_path, "a.png", "A.png", "b.png", "B.png", "a.txt", "A.txt", "b.txt"))
    captions = {p.name: p.caption for p in found.pictures}
    assert captions == {"a.png": "a.txt", "A.png": "A.txt", "b.png": "b.txt", "B.png": None}


def test_what_belongs_to_no_picture_or_comes_second_is_told(tmp_path):
    found = scan(made(
        tmp_path, "a.png", "a.jpg", "a.txt", "a.TXT", "a.caption", "a.jpg.txt", "lost.txt",
        "lost-masklabel.png", "a-masklabel.png", "a-masklabel.webp",
    ))  # fmt: skip
    assert [p.caption for p in found.pictures] == ["a.txt", "a.txt"]
    assert found.unused == {
        "a-masklabel.webp": "a second mask of a.png: a-masklabel.png is taken",
        "a.TXT": "a second caption of a.png: a.txt is taken",
        "a.caption": "a second caption of a.png: a.txt is taken",
        "a.jpg.txt": "a second caption of a.jpg: a.txt is taken",
        "lost-masklabel.png": "a mask without its picture",
        "lost.txt": "a caption without its picture",
    }


def test_every_file_is_used_or_counted(tmp_path):
    made(tmp_path, "a.png", "a.txt", "img/10_owl/b.png", "img/10_owl/b.txt", "lost.txt")
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "__MACOSX/._a.png", "._a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    for name in ("c.heic", "d.JXR", "e.psd", "notes", "clip.mp4", "clip.MP4"):
        (tmp_path / name).write_bytes(b"?")
    listing, settings = scan(tmp_path), DatasetSettings(resolution=64)
    planned = plan(listing, settings, 16)
    check_count(planned, settings, listing)
    said = report("set", settings, planned, listing, 1, 0)
    heic = "c.heic: .heic can't be read here: convert it to png or jpg"
    for line in (
        "pictures 1,", "skipped: 3\n", f"\n  {heic}\n", "\n  e.psd: .psd can't be read",
        "\n  img/10_owl/: deeper than a sub-folder, pictures 1: choose the folder img in it\n",
        "not used: 1\n  lost.txt: a caption without its picture\n",
        "other files: 4 (.jxr, .mp4, no ending)",
    ):  # fmt: skip
        assert line in said, said
    assert "DS_Store" not in said and "Thumbs" not in said and "MACOSX" not in said


@pytest.mark.skipif(os.name == "nt", reason="names of bytes")
def test_names_that_are_no_utf8(tmp_path):
    """The picture is used with its caption and mask, and reports can be sent."""
    made(tmp_path / "set", "x.png", "x.txt", "x-masklabel.png", "y.txt", "3_z/b.png", "n.dat")
    name = os.fsdecode(b"caf\xe9")
    for old, new in (
        ("x.png", f"{name}.png"), ("x.txt", f"{name}.txt"), ("y.txt", f"y{name}.txt"),
        ("x-masklabel.png", f"{name}-masklabel.png"), ("3_z", f"3_{name}"),
        ("n.dat", f"n.{name}"),
    ):  # fmt: skip
        os.rename(tmp_path / "set" / old, tmp_path / "set" / new)
    os.rename(tmp_path / "set", tmp_path / name)
    folder = tmp_path / name
    listing, settings = scan(folder), DatasetSettings("for all", resolution=64)
    planned = plan(listing, settings, 16)
    said = report(name, settings, planned, listing, 1, 0)
    assert said.encode() and "caf\\xe9: pictures 2" in said and "(.caf\\xe9)" in said
    assert {p.name: p.caption for p in listing.pictures} == {
        "3_caf\\xe9/b.png": None, "caf\\xe9.png": "x.txt",
    }  # fmt: skip
    assert listing.pictures[1].mask and listing.pictures[0].folder_caption == ""
    assert list(listing.unused) == ["ycaf\\xe9.txt"]
    assert state(folder).encode() and with_pictures(tmp_path) == [name, f"{name}/3_{name}"]
    with pytest.raises(ValueError, match="no caption for 3_caf") as told:
        plan(scan(folder), DatasetSettings(resolution=64), 16)
    assert str(told.value).encode()


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("né".encode(), "né"), ("né".encode("utf-8-sig"), "né"), 
        ("né, an owl".encode("utf-16"), "né, an owl"),
        ("né".encode("utf-16-le"), "né"), ("owl, né".encode("utf-16-be"), "owl, né"), (b"", ""),
        ("﻿猫".encode("utf-16-be"), "猫"), ("猫".encode(), "猫"), (b"a", "a"),
    ],
)  # fmt: skip
def test_captions_in_unicode_are_read(data: bytes, text: str):
    assert text_of(data).lstrip("\ufeff") == text


@pytest.mark.parametrize(
    "data",
    ["né".encode("latin-1"), "猫の絵".encode("cp932"), "中国画".encode("gbk"),
     "сова".encode("cp1251"), b"a\0b\0\0", b"\0" * 9, "owl".encode("utf-32"),
     b"\xff\xfe\x00", b"a\0, an owl on a branch"],
)  # fmt: skip
def test_captions_in_other_encodings_are_refused(data: bytes):
    with pytest.raises(Unusable, match="its caption is no"):
        text_of(data)
