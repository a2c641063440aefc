"""Sizes and boxes of pictures, over all shapes: multiples, area, aspect, and inside the picture."""

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora2_core.dataset.buckets import (
    WIDEST,
    bucket_for,
    buckets,
    enlargement,
    resolutions_of,
    step_for,
)
from lora2_core.dataset.crops import LEAST_SIDE, crop_to, crops_of

sides = st.integers(1, 20_000)
sizes = st.tuples(sides, sides)
resolutions = st.integers(256, 4096)
ratios = st.sampled_from([1, 4, 8, 16, 32])


@given(resolutions, ratios)
def test_the_step_fits_the_vae_and_the_resolution(resolution, ratio):
    step = step_for(resolution, ratio)
    assert step % (2 * ratio) == 0
    assert step == 2 * ratio or 8 * step <= resolution
    assert step <= 64 or step == 2 * ratio


@pytest.mark.parametrize(
    ("resolution", "ratio", "step"), [(1024, 8, 64), (512, 8, 64), (32, 4, 8), (256, 8, 32)]
)
def test_known_steps(resolution, ratio, step):
    assert step_for(resolution, ratio) == step


def test_a_resolution_below_four_steps_is_refused():
    with pytest.raises(ValueError, match="resolution is 63, but this VAE needs at least 64: raise"):
        step_for(63, 8)


@given(sizes, resolutions, ratios, st.booleans())
def test_every_size_is_a_multiple_with_about_the_area(size, resolution, ratio, square):
    step = step_for(resolution, ratio)
    width, height = bucket_for(size, resolution, step, square=square)
    assert width % step == height % step == 0
    assert max(width, height) <= WIDEST * min(width, height)
    assert abs(width * height / resolution**2 - 1) <= 1.1 * step / resolution
    assert not square or width == height


@given(sizes, resolutions)
def test_the_shape_is_kept(size, resolution):
    """The error of the aspect ratio, beyond what a picture longer than 3:1 loses anyway."""
    step = step_for(resolution, 8)
    width, height = bucket_for(size, resolution, step)
    wanted = math.log(size[0] / size[1])
    wanted = max(-math.log(WIDEST), min(math.log(WIDEST), wanted))
    assert abs(math.log(width / height) - wanted) <= 2 * step / resolution


@given(sizes, resolutions)
def test_a_picture_on_its_side_gets_the_size_on_its_side(size, resolution):
    step = step_for(resolution, 8)
    width, height = bucket_for(size, resolution, step)
    turned = bucket_for(size[::-1], resolution, step)
    assert width * height == pytest.approx(turned[0] * turned[1], rel=2.2 * step / resolution)
    assert {(w, h) for w, h in buckets(resolution, step)} == {
        (h, w) for w, h in buckets(resolution, step)
    }


def test_sdxl_has_the_sizes_that_it_was_trained_on():
    trained = {(1024, 1024), (1152, 896), (1216, 832), (1344, 768), (896, 1152), (832, 1216)}
    assert trained <= set(buckets(1024, 64))


@given(sizes, sizes, st.integers(0, 5))
def test_boxes_lie_inside_and_have_the_shape(size, bucket, seed):
    bucket = (max(bucket[0], bucket[1] // 3 + 1), max(bucket[1], bucket[0] // 3 + 1))
    whole = crop_to(size, bucket)
    for crop in (whole, crop_to(size, bucket, Random(seed))):
        assert crop.width >= 1 and crop.height >= 1 and crop.left >= 0 and crop.top >= 0
        assert crop.left + crop.width <= size[0] and crop.top + crop.height <= size[1]
        exact = crop.width * bucket[1] - crop.height * bucket[0]  # 0 but for rounding
        assert abs(exact) <= max(bucket) or min(crop.width, crop.height) == 1
        assert crop.width >= math.floor(LEAST_SIDE * whole.width) - 1
    assert whole.width == size[0] or whole.height == size[1]
    assert abs(2 * whole.left + whole.width - size[0]) <= 1


def test_crops_are_the_same_for_the_same_seed():
    crops = crops_of((640, 480), (1152, 896), extra=3, flip=True, seed="a")
    assert crops == crops_of((640, 480), (1152, 896), extra=3, flip=True, seed="a")
    assert crops[2:] != crops_of((640, 480), (1152, 896), extra=3, flip=True, seed="b")[2:]
    assert len(set(crops)) == 8 and [c.flip for c in crops] == [False, True] * 4


def test_enlargement_is_of_the_side_that_needs_it_most():
    assert enlargement((100, 50), (200, 200)) == 4
    assert enlargement((400, 800), (200, 200)) == 0.5


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("", ()), (" ", ()), ("512", (512,)), ("512, 768", (512, 768)), ("768 512;768", (768, 512))],
)
def test_further_resolutions_are_numbers_with_commas(text: str, wanted: tuple):
    assert resolutions_of(text) == wanted


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a", "more_resolutions is 'a': give numbers from 16 to 8192"), ("8", "is '8': give"),
        ("512.5", "is '512.5'"), ("-512", "is '-512'"), ("9000", "is '9000'"), ("١٢٨", "give numb"),
        (512, "more_resolutions is 512: give a text"), (None, "is None"),
        (", ".join(map(str, range(100, 109))), "names 9 of them: give at most 8"),
    ],
)  # fmt: skip
def test_wrong_resolutions_are_one_sentence(text: object, sentence: str):
    with pytest.raises(ValueError, match=sentence) as error:
        resolutions_of(text)
    assert "\n" not in str(error.value)
