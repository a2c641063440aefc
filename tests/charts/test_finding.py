"""The picture of the layers that were found in a model."""

import numpy as np
from matplotlib.colors import to_rgb

from lora2_core.charts.finding import COLOURS, PALE, Found, draw_finding

KINDS = ("attention", "feed-forward", "modulation")


def layers(count: int, **changes: Found) -> dict[str, Found]:
    made = {}
    for block in range(count):
        made[f"diffusion_model.strange.{block}.attn.q"] = Found("attention", True)
        made[f"diffusion_model.strange.{block}.ff.up"] = Found("feed-forward", False)
    return made | changes


def pixels_of(picture: np.ndarray, colour) -> int:
    wanted = np.round(np.array(colour) * 255)
    return int((np.abs(picture - wanted).max(-1) <= 1).sum())


def test_each_kind_has_its_colour_and_what_is_left_out_is_pale():
    picture = draw_finding(layers(4), KINDS)
    chosen, left = (np.array(to_rgb(colour)) for colour in COLOURS[:2])
    assert picture.dtype == np.uint8 and picture.shape[1:] == (1024, 3)
    pale = PALE * left + 1 - PALE
    assert pixels_of(picture, chosen) > 10_000 < pixels_of(picture, pale)
    assert pixels_of(picture, left) < pixels_of(picture, pale) / 10, "its legend alone"


def test_an_idle_layer_is_crossed_out():
    idle = {"diffusion_model.strange.3.attn.q": Found("attention", True, idle=True)}
    assert not np.array_equal(
        draw_finding(layers(4), KINDS), draw_finding(layers(4, **idle), KINDS)
    )


def test_a_picture_of_a_deep_model_keeps_a_size():
    assert draw_finding(layers(400), KINDS).shape[0] <= 6000
