"""One folder at several resolutions: which picture is used at which, and what the report says."""

from functools import partial

import pytest
from PIL import Image

from lora2_core.dataset.buckets import step_for
from lora2_core.dataset.folder import scan
from lora2_core.dataset.plan import DatasetSettings
from lora2_core.dataset.report import report
from lora2_core.dataset.scales import plan_scales

SIZES = {"large": (2048, 2048), "exact": (1000, 1010), "middle": (600, 600), "small": (300, 300)}


@pytest.fixture
def listing(tmp_path):
    """Pictures of four sizes; `large` twice as often."""
    for name, size in SIZES.items():
        folder = tmp_path / ("2_a" if name == "large" else "1_b")
        folder.mkdir(exist_ok=True)
        Image.new("L", size).save(folder / f"{name}.png")
    return scan(tmp_path)


def used(listing, resolution: int, more: str) -> tuple[dict, DatasetSettings, list]:
    """The sides of the squares by the name of each picture."""
    settings = DatasetSettings("a", resolution, more_resolutions=more)
    planned = plan_scales(listing, settings, partial(step_for, ratio=8))
    found: dict = {}
    for item in planned:
        found.setdefault(item.picture.path.stem, []).append(item.bucket[0])
    return found, settings, planned


@pytest.mark.parametrize(
    ("resolution", "more", "wanted"),
    [
        (1024, "", {"large": [1024], "exact": [1024], "middle": [1024]}),
        (1024, "1024", {"large": [1024], "exact": [1024], "middle": [1024]}),
        (1024, "512, 256", {"large": [1024, 512, 256], "exact": [1024, 512, 256],
                            "middle": [1024, 512, 256], "small": [512, 256]}),
        (512, "1024, 2048", {"large": [512, 1024, 2048], "exact": [512, 1024],
                             "middle": [512], "small": [512]}),
        (512, "515", {name: [512] for name in SIZES}),  # the same size once
    ],
)  # fmt: skip
def test_a_picture_is_used_where_it_is_large_enough(listing, resolution, more, wanted):
    """As much as `resolution` enlarges it, or not at all but for rounding."""
    assert used(listing, resolution, more)[0] == wanted
    left = SIZES.keys() - wanted
    assert {name.rpartition("/")[2] for name in listing.skipped} == {f"{n}.png" for n in left}


def test_the_report_says_how_many_and_the_cost(listing):
    _, settings, planned = used(listing, 1024, "512, 256")
    lines = report("set", settings, planned, listing, 12, 0).splitlines()
    assert lines[0] == "set: pictures 4, entries 12"
    assert lines[1] == "sizes: 256x256 (4), 512x512 (4), 1024x1024 (3)"
    assert lines[2:5] == [
        "resolutions: 1024 (3), 512 (4), 256 (4)",
        "more latents than with 1024 alone: +250%",  # 4 of 1024, as one counts twice, and 5 + 5
        "time of a step by its pixels: 1024 100%, 512 25%, 256 6%; on average 40%",
    ]
    assert "repeats: 1 (3), 2 (1)" in lines and "enlarged: 3" in lines


def test_a_report_of_one_resolution_says_nothing_of_it(listing):
    _, settings, planned = used(listing, 1024, "")
    text = report("set", settings, planned, listing, 4, 0)
    assert "resolutions" not in text and "time of a step" not in text
    assert "more_resolutions" not in settings.facts(), "what depends on it keeps its name"
    assert DatasetSettings(more_resolutions="512").facts()["more_resolutions"] == "512"


def test_one_that_the_vae_can_not_take_is_named(listing):
    with pytest.raises(ValueError, match="Of more_resolutions: resolution is 32, but this VAE"):
        used(listing, 512, "32")
