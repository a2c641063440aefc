"""Sources of edit pairs: found by name, and cut out as their pictures are."""

from pathlib import Path

import pytest
from PIL import Image

from lora2_core.dataset.crops import Crop
from lora2_core.dataset.folder import scan
from lora2_core.dataset.reading import Seen
from lora2_core.dataset.sources import boxes, source_of


def files(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 64)).save(root / name, "png")
    return root


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("owl_source.png", ("owl", 1)), ("Owl_Source2.JPG", ("Owl", 2)), ("owl.png", None),
        ("_source.png", None), ("owl_source10.png", None), ("a_source_source.png", ("a_source", 1)),
    ],
)  # fmt: skip
def test_a_source_is_named_after_its_picture(name: str, found: tuple | None):
    assert source_of(Path(name)) == found


def test_sources_are_found_beside_their_pictures_in_order(tmp_path):
    names = ["b_source2.png", "b_SOURCE.webp", "b.png", "2_x/é.png", "2_x/É_source.jpg", "a.png"]
    listing = scan(files(tmp_path, *names, "gone_source.png", "a_source.jpg", "a_source.png"))
    found = {p.name: [path.name for path in p.sources] for p in listing.pictures}
    assert found == {
        "2_x/é.png": ["É_source.jpg"], "a.png": ["a_source.jpg"],
        "b.png": ["b_SOURCE.webp", "b_source2.png"],
    }  # fmt: skip
    assert listing.unused == {
        "gone_source.png": "a source without its picture",
        "a_source.png": "a second source of a.png: a_source.jpg is taken",
    }


def test_a_second_folder_has_them_under_the_same_names(tmp_path):
    folder = files(tmp_path / "after", "a.png", "3_b/a.png", "c.jpg")
    other = files(tmp_path / "before", "a.webp", "3_b/A.png", "d.png")
    listing = scan(folder, other)
    found = {p.name: [str(path.relative_to(other)) for path in p.sources] for p in listing.pictures}
    assert found == {"3_b/a.png": ["3_b/A.png"], "a.png": ["a.webp"], "c.jpg": []}
    assert listing.unused == {"before/d.png": "a source without its picture"}


CROPS = [Crop(10, 0, 80, 100), Crop(20, 40, 40, 50, flip=True)]


def seen(width: int, height: int) -> Seen:
    return Seen(width, height, False, full=(width, height))


def test_a_source_of_the_same_shape_is_cut_alike():
    made, size = boxes(CROPS, seen(100, 100), seen(250, 250), (64, 80), (64, 64))
    assert size == (64, 80)
    assert made == [Crop(25, 0, 200, 250), Crop(50, 100, 100, 125, flip=True)]


@pytest.mark.parametrize("side", [1, 2, 3, 99, 101])
def test_a_cut_never_leaves_the_source(side: int):
    for crop in [*CROPS, Crop(99, 99, 1, 1)]:
        (box,), _ = boxes([crop], seen(100, 100), seen(side, side), (64, 64), (64, 64))
        assert 0 <= box.left < box.left + box.width <= side
        assert 0 <= box.top < box.top + box.height <= side


def test_a_source_of_another_shape_is_taken_from_its_centre_and_mirrored_alike():
    made, size = boxes(CROPS, seen(100, 100), seen(300, 100), (64, 80), (96, 32))
    assert size == (96, 32)
    assert made == [Crop(0, 0, 300, 100), Crop(0, 0, 300, 100, flip=True)]
