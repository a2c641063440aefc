"""The table of captions: the text that training uses, where it comes from, where an edit goes."""

import os
from pathlib import Path

import pytest
from PIL import Image

from lora2_core.dataset.caption_table import MOST_ROWS, caption_table
from lora2_core.dataset.folder import scan
from lora2_core.dataset.plan import DatasetSettings


def pictures(folder: Path, *names: str, captions: dict[str, str]) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(folder / name, "PNG")
    for name, text in captions.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def table(folder: Path) -> dict[str, dict]:
    return {row["name"]: row for row in caption_table(folder, 0, MOST_ROWS)["rows"]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One picture for each way in which a picture gets its caption."""
    names = ("both.png", "empty.png", "none.png", "Odd.PNG", "other.png", "3_owl/in.png")
    captions = {
        "both.txt": "first", "both.caption": "second", "empty.txt": " \n", "odd.TXT": "odd",
        "other.png.caption": "other",
    }  # fmt: skip
    return pictures(tmp_path / "set", *names, captions=captions)


def test_a_row_has_the_caption_and_its_file(folder: Path):
    rows = table(folder)
    shown = {name: (row["caption"], row["caption_file"]) for name, row in rows.items()}
    assert shown == {
        "3_owl/in.png": (None, ""), "Odd.PNG": ("odd", "odd.TXT"), "empty.png": ("", "empty.txt"),
        "both.png": ("first", "both.txt"), "none.png": (None, ""),
        "other.png": ("other", "other.png.caption"),
    }  # fmt: skip
    assert rows["3_owl/in.png"]["folder_caption"] == "owl"
    assert (rows["3_owl/in.png"]["folders"], rows["3_owl/in.png"]["file"]) == ("3_owl", "in.png")
    assert [row["locked"] for row in rows.values()] == [""] * 6


@pytest.mark.parametrize("common", ["", " a bird "])
def test_an_edited_caption_is_the_one_that_training_uses(folder: Path, common: str):
    """Whatever caption files a picture had: the new one comes first."""
    for row in table(folder).values():
        (folder / row["folders"] / row["text_file"]).write_text(f"new {row['name']}")
    settings = DatasetSettings(caption=common)
    for picture in scan(folder).pictures:
        assert settings.caption_of(picture) == f"new {picture.name}"
        row = table(folder)[picture.name]
        assert (row["caption"], row["caption_file"]) == (f"new {picture.name}", row["text_file"])


def test_pictures_of_one_name_share_a_text(tmp_path: Path):
    folder = pictures(tmp_path / "a", "owl.png", "owl.jpg", "a/owl.png", captions={"owl.txt": "x"})
    shared = {name: row["shared"] for name, row in table(folder).items()}
    assert shared == {"a/owl.png": [], "owl.jpg": ["owl.png"], "owl.png": ["owl.jpg"]}


def test_rows_come_in_pages(tmp_path: Path):
    folder = pictures(tmp_path / "a", *(f"{i:02}.png" for i in range(7)), captions={})
    (folder / "bad.psd").write_bytes(b"")
    found = caption_table(folder, 4, 2)
    assert [row["name"] for row in found["rows"]] == ["04.png", "05.png"]
    assert found["pictures"] == 7 and found["more_skipped"] == 0
    assert found["skipped"] == {"bad.psd": ".psd can't be read here: convert it to png or jpg"}
    assert caption_table(folder, 7, 2)["rows"] == []
    for first, count in ((-1, 2), (0, 0), (0, MOST_ROWS + 1), (True, 2)):
        with pytest.raises(ValueError, match=r"(first|count) is .*: give a whole number from"):
            caption_table(folder, first, count)


@pytest.mark.skipif(os.name == "nt", reason="names that Windows can't have, and links")
def test_what_must_not_be_written_is_locked(tmp_path: Path):
    """A link is not written through, and a name that a browser or a platform alters isn't sent."""
    names = (
        "link.png", "lost.png", "map.png", 'q"uote.png', "new\nline.png", "con.png", "a\\b.png",
        "fine.png",
    )  # fmt: skip
    folder = pictures(tmp_path / "a", *names, captions={})
    (tmp_path / "secret").write_text("of somebody else")
    (folder / "link.txt").symlink_to(tmp_path / "secret")
    (folder / "map.txt").mkdir()
    (folder / "lost.caption").write_text("lost")
    (folder / "lost.txt").symlink_to(tmp_path / "nowhere" / "x")
    Image.new("RGB", (8, 8)).save(os.fsencode(folder) + b"/b\xff.png")
    reasons = {name: row["locked"] for name, row in table(folder).items()}
    assert reasons.pop("fine.png") == ""
    assert reasons["link.png"] == "'link.txt' is a link: edit the file that it leads to"
    assert reasons["map.png"] == "'map.txt' is not a regular file"
    assert "lost.png" in caption_table(folder, 0, 9)["skipped"]  # training skips it too
    assert all(reasons.values()) and len(reasons) == 7
    assert table(folder)["b\\xff.png"]["file"] == ""
