"""Folders and files that are broken, odd or hostile: left out with a reason, or one sentence."""

import os

import numpy as np
import pytest
from PIL import Image

import lora2_core.dataset.reading as reading
from lora2_core.dataset.folder import check_folder, repeats_of, scan
from lora2_core.dataset.plan import DatasetSettings, check_count, plan
from lora2_core.dataset.reading import Unusable, decode, look
from lora2_core.dataset.walking import state, with_pictures


def picture(path, size=(8, 6), mode="RGB", colour=0, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, **options)
    return path


def test_pictures_and_captions_are_found(tmp_path):
    picture(tmp_path / "set" / "b.PNG")
    picture(tmp_path / "set" / "a.jpg")
    picture(tmp_path / "set" / "3_owl" / "c.webp")
    picture(tmp_path / "set" / "plain" / "d.bmp")
    picture(tmp_path / "set" / "plain" / "deeper" / "e.png")
    picture(tmp_path / "set" / ".hidden" / "f.png")
    (tmp_path / "set" / "a.txt").write_bytes(b"\xef\xbb\xbf an owl \r\n")
    (tmp_path / "set" / "b.txt").write_text("")
    (tmp_path / "set" / "notes.md").write_text("")
    found = scan(tmp_path / "set")
    assert [(p.name, p.repeats, p.caption) for p in found.pictures] == [
        ("3_owl/c.webp", 3, None),
        ("a.jpg", 1, "an owl"),
        ("b.PNG", 1, ""),
        ("plain/d.bmp", 1, None),
    ]
    deep = "deeper than a sub-folder, pictures 1: choose the folder plain in it"
    assert found.skipped == {"plain/deeper/": deep} and found.others == {".md": 1}


def test_only_folders_with_pictures_are_offered(tmp_path):
    picture(tmp_path / "owl" / "a.PNG")
    picture(tmp_path / "repeats" / "3_fox" / "b.jpg")
    picture(tmp_path / "far" / "too" / "deep" / "c.jpg")
    (tmp_path / "3d").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("an owl")
    (tmp_path / "texts" / "up").symlink_to(tmp_path)
    (tmp_path / "linked").symlink_to(picture(tmp_path / "far" / ".else" / "a.avif").parent)
    names = ["far/too", "far/too/deep", "linked", "owl", "repeats", "repeats/3_fox"]
    assert with_pictures(tmp_path) == names


def test_links_are_followed_and_what_is_no_file_is_left_out(tmp_path):
    root = tmp_path / "input"
    outside = picture(tmp_path / "outside" / "a.png").parent
    picture(root / "set" / "good.png")
    (root / "set" / "link.png").symlink_to(outside / "a.png")
    (root / "set" / "link.txt").symlink_to(outside / "words.txt")
    (outside / "words.txt").write_text("an owl")
    (root / "set" / "elsewhere").symlink_to(outside)
    (root / "set" / "loop").symlink_to(root)
    (root / "set" / "lost.png").symlink_to(tmp_path / "nowhere.png")
    picture(root / "set" / "silent.png")
    (root / "set" / "silent.txt").symlink_to(tmp_path / "nowhere.txt")
    os.mkfifo(root / "set" / "pipe.png")
    picture(root / "set" / "latin.png")
    (root / "set" / "latin.txt").write_bytes(b"caf\xe9")
    picture(root / "set" / "long.png")
    (root / "set" / "long.txt").write_bytes(b"a" * 70_000)
    found = scan(root / "set")
    used = [("elsewhere/a.png", None), ("good.png", None), ("link.png", "an owl")]
    assert [(p.name, p.caption) for p in found.pictures] == used
    assert found.skipped == {
        "latin.png": "its caption is not UTF-8 text: save it as UTF-8",
        "long.png": "its caption has more than 65536 bytes",
        "loop/set/": "a link to a folder that it is in",
        "lost.png": "a link to nothing",
        "pipe.png": "not a regular file",
        "silent.png": "its caption is a link to nothing",
    }
    assert found.unused == {"elsewhere/words.txt": "a caption without its picture"}


def test_masks_go_with_their_pictures(tmp_path):
    root = tmp_path / "input"
    for name in ("a.jpg", "a-masklabel.png", "b.c.png", "b.c-masklabel.webp", "-masklabel.png"):
        picture(root / "set" / name)
    for name in ("a.png", "lost-masklabel.png"):
        picture(root / "set" / "2_sub" / name)
    (root / "set" / "2_sub" / "b.png").symlink_to(root / "set" / "a.jpg")
    os.mkfifo(root / "set" / "2_sub" / "b-masklabel.png")
    found = scan(root / "set")
    masks = {p.name: p.mask and p.mask.name for p in found.pictures}
    assert masks == {
        "-masklabel.png": None, "2_sub/a.png": None, "a.jpg": "a-masklabel.png",
        "b.c.png": "b.c-masklabel.webp",
    }  # fmt: skip
    assert found.skipped == {"2_sub/b.png": "its mask is not a regular file"}
    assert found.unused == {"2_sub/lost-masklabel.png": "a mask without its picture"}


def test_a_folder_is_inside_the_root(tmp_path):
    root = tmp_path / "input"
    (root / "a" / "b").mkdir(parents=True)
    (tmp_path / "input2").mkdir()
    (root / "link").symlink_to(tmp_path)
    assert check_folder(str(root), "a\\b") == root / "a" / "b"
    assert check_folder(str(root), "link/input2") == root / "link" / "input2"
    for name in ("..", "../input2", "a/../../input2", "/", str(tmp_path), "link/.."):
        with pytest.raises(ValueError, match="leads out of the input folder: choose one inside"):
            check_folder(str(root), name)
    for name in ("", "  ", None, 3, "a\0"):
        with pytest.raises(ValueError, match="folder is .*: choose a folder"):
            check_folder(str(root), name)
    for name in ("gone", "x" * 5000):
        with pytest.raises(ValueError, match="There is no folder"):
            check_folder(str(root), name)
    with pytest.raises(ValueError, match="is the input folder itself"):
        check_folder(str(root), ".")


@pytest.mark.parametrize(
    ("name", "repeats"), [("3_owl", 3), ("owl", 1), ("10_", 10), ("3owl", 1), ("_3", 1)]
)
def test_repeats_of_a_folder(name, repeats):
    assert repeats_of(name) == repeats


@pytest.mark.parametrize("name", ["0_owl", "1001_owl", "9" * 5000 + "_owl"])
def test_repeats_out_of_range(name):
    with pytest.raises(ValueError, match="repeats: give it a number from 1 to 1000"):
        repeats_of(name)


def test_the_state_follows_names_sizes_and_times(tmp_path):
    file = picture(tmp_path / "set" / "a.png")
    states = [state(tmp_path / "set")]
    assert state(tmp_path / "set") == states[0]
    (tmp_path / "set" / "a.txt").write_text("words")
    states.append(state(tmp_path / "set"))
    os.utime(file, ns=(1, 1))
    states.append(state(tmp_path / "set"))
    picture(tmp_path / "set" / "2_sub" / "b.png")
    states.append(state(tmp_path / "set"))
    assert len(set(states)) == 4


def test_every_kind_of_picture_becomes_rgb_on_white(tmp_path):
    clear = picture(tmp_path / "clear.png", mode="RGBA", colour=(255, 0, 0, 0))
    assert look(clear).transparent and (decode(clear.read_bytes()) == 1).all()
    palette = picture(tmp_path / "palette.gif", mode="P", colour=0)
    assert decode(palette.read_bytes()).shape == (6, 8, 3)
    deep = tmp_path / "deep.png"
    Image.fromarray(np.full((6, 8), 32768, np.uint16)).save(deep)
    assert np.allclose(decode(deep.read_bytes()), 32768 / 65535)
    grey = picture(tmp_path / "grey.jpg", mode="L", colour=51)
    assert np.allclose(decode(grey.read_bytes()), 0.2)
    cmyk = picture(tmp_path / "cmyk.jpg", mode="CMYK", colour=(0, 0, 0, 255))
    assert decode(cmyk.read_bytes()).max() < 0.1


def test_a_phones_jpeg_with_a_preview_is_one_picture(tmp_path):
    path = tmp_path / "phone.jpg"
    preview = Image.new("RGB", (4, 3))
    Image.new("RGB", (8, 6), "white").save(path, "MPO", save_all=True, append_images=[preview])
    assert (look(path).width, look(path).height) == (8, 6)
    assert decode(path.read_bytes()).shape == (6, 8, 3)


def test_exif_orientation_is_obeyed(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = picture(tmp_path / "turned.jpg", size=(8, 6), exif=exif)
    assert (look(path).width, look(path).height) == (6, 8)
    assert decode(path.read_bytes()).shape == (8, 6, 3)


def test_unusable_files_say_why(tmp_path, monkeypatch):
    good = picture(tmp_path / "good.png", size=(64, 64)).read_bytes()
    empty = tmp_path / "empty.png"
    empty.write_bytes(b"")
    script = tmp_path / "script.png"
    script.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    monkeypatch.setattr(reading, "MOST_PIXELS", 2_000_000)
    large = picture(tmp_path / "large.png", size=(2000, 1001))
    for path, reason in (
        (empty, "empty"), (script, "unreadable"), (tmp_path / "gone.png", "unreadable"),
        (large, "more than 2 megapixels"),
    ):  # fmt: skip
        with pytest.raises(Unusable, match=reason):
            look(path)
    with pytest.raises(Unusable, match="unreadable"):
        decode(good[: len(good) // 2])


def test_damage_anywhere_never_escapes(tmp_path):
    """Whatever bytes are flipped, a file is read or Unusable."""
    for suffix in (".png", ".jpg", ".webp", ".tiff", ".gif", ".bmp", ".avif"):
        path = picture(tmp_path / f"a{suffix}", size=(16, 16), colour=(9, 99, 200))
        data = path.read_bytes()
        for place in range(0, len(data), max(1, len(data) // 60)):
            hurt = bytearray(data)
            hurt[place] ^= 0xFF
            path.write_bytes(hurt)
            try:
                look(path)
                decode(bytes(hurt))
            except Unusable:
                continue


def planned(tmp_path, **settings):
    listing = scan(tmp_path / "set")
    settings = DatasetSettings(resolution=64, **settings)
    return plan(listing, settings, 16), listing, settings


def test_a_picture_without_a_caption_is_named_unless_it_is_skipped(tmp_path):
    picture(tmp_path / "set" / "a.png", size=(64, 64))
    picture(tmp_path / "set" / "tiny.png", size=(20, 64))
    with pytest.raises(ValueError, match=r"no caption for a.png: put a.txt beside it \(an empty"):
        planned(tmp_path, caption=" ")
    picture(tmp_path / "set" / "2_" / "b.png", size=(64, 64))
    with pytest.raises(ValueError, match=r"no caption for 2_/b.png and 1 more: put b.txt beside"):
        planned(tmp_path)
    (tmp_path / "set" / "2_" / "b.png").unlink()
    (tmp_path / "set" / "a.txt").write_text("")
    pictures, listing, _ = planned(tmp_path)
    assert [p.picture.caption for p in pictures] == [""]
    assert listing.skipped == {
        "tiny.png": "20x64 is too small for 48x96: use a larger picture or lower resolution"
    }


def test_too_many_entries_are_refused(tmp_path):
    picture(tmp_path / "set" / "1000_a" / "a.png", size=(64, 64))
    picture(tmp_path / "set" / "7_a" / "a.png", size=(64, 64))
    pictures, listing, settings = planned(tmp_path, caption="a", crops=100, flip=True)
    with pytest.raises(ValueError, match="makes 203414 entries: lower its repeats"):
        check_count(pictures, settings, listing)
    assert check_count(pictures[:1], settings, listing) == 1000
