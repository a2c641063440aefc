"""What a workflow names lies below its folder, and can be written on every platform."""

import os
from pathlib import Path

import pytest

from lora2_core.paths import below, quoted, readable, standing, unportable


@pytest.mark.parametrize("name", ["a", "a/b", "a\\b", "ü ber/x (1)", "a//b", "./a", "a..b", "con1"])
def test_names_below(name: str, tmp_path: Path):
    assert below(tmp_path, name) == tmp_path.joinpath(*name.replace("\\", "/").split("/"))


@pytest.mark.parametrize(
    "name",
    ["", ".", "/", "..", "../a", "a/../../b", "a\\..\\b", "/etc/passwd", "\\a", "//server/share",
     "\\\\server\\share", "\\\\?\\C:\\x", "C:\\x", "C:x", "c:/x", "a/C:", "a/c:x", "a\0b", None, 3,
     b"a", ["a"], "link/..", "link/../..", "a/.. ", "a/. ./b", "...", "\ud800"],
)  # fmt: skip
def test_names_that_lead_out(name, tmp_path: Path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(tmp_path)
    assert below(root, name) is None


def test_links_are_followed_by_whoever_opens_them(tmp_path: Path):
    """In the folder, or the folder itself: names go by the folder, as the host lists them."""
    (tmp_path / "real" / "in").mkdir(parents=True)
    (tmp_path / "root").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "link").symlink_to(tmp_path)
    assert below(tmp_path / "root", "link/x") == tmp_path / "root" / "link" / "x"
    root = tmp_path / "root"
    assert standing(root, "link\\real/new/x") == (root / "link" / "real", "new/x")
    assert standing(root, "x") == (root, "x") and standing(root, "in") == (root, "in")


@pytest.mark.skipif(os.name == "nt", reason="names of bytes")
def test_names_of_any_bytes_can_be_shown():
    assert readable(os.fsdecode(b"caf\xe9.png")) == "caf\\xe9.png" and readable("é\n") == "é\n"


@pytest.mark.parametrize(
    "name",
    ["lora2/lora2", "über/ü", "猫/猫", "a.b-c_d (1)", "%year%-%month%/x", "console", "com0s"],
)
def test_names_that_every_platform_writes(name: str):
    assert unportable(name) is None


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("CON", "device"), ("nul.txt", "device"), ("a/aux/b", "device"), ("com¹", "device"),
        ("LPT9 .x", "device"), ("conin$", "device"), ("a.", "ends with"), ("a ", "ends with"),
        (" a", "begins"), ("a/.../b", "ends with"), ("a//b", "empty"), ("a/", "empty"),
        ("", "empty"), ("./a", "empty"), ("ab:c", "Windows has no :"), ("a*", "Windows has no *"),
        ("<a>", "Windows has no <"), ("a\nb", "can't be seen"), ("a\u202egnp", "can't be seen"),
        ("a\u200bb", "can't be seen"), ("a\x7f", "can't be seen"), ("\ud800", "can't be seen"),
        ("ü" * 91, "too long"), ("a/" * 500 + "a", "too long"), ("../a", "no path"),
        ("/a", "no path"), (None, "no path"), (3, "no path"), ("\\\\server\\x", "no path"),
    ],
)  # fmt: skip
def test_names_that_some_platform_does_not_write(name, fault: str):
    assert fault in unportable(name)


def test_names_are_quoted_on_one_line():
    assert quoted("a\nb\u202e") == r"'a\nb\u202e'" and len(quoted("x" * 9999)) == 100
    assert os.linesep not in quoted(["\n"])
