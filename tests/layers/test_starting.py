"""A run that starts from a finished adapter begins with its update and loses none of it."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import lora2_core as lora2
from lora2_core.adapter.names import kohya_name
from lora2_core.layers.layer import Component
from lora2_core.layers.starting import fill, fingerprint, orthogonalise, starting_layers
from lora2_core.training.run import Run
from tests.toys import Planted, random_lora, trained

MODES = ["adaptive", "paper", "fixed"]


class Net(nn.Module):
    """A layer of each kind."""

    def __init__(self):
        super().__init__()
        self.line = nn.Linear(12, 20)
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.other = nn.Linear(5, 5)


SHAPES = {"line": (20, 12, 6, None), "conv": (8, 27, 4, (3, 3))}


def begun(start: lora2.RankedLora, mode: str = "adaptive", **settings) -> lora2.Adapters:
    chosen = {"target_rank": 2, "max_rank": 10} | settings
    return lora2.attach(Net(), ".", lora2.RankSettings(mode=mode, **chosen), start=start)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("names", [str, kohya_name])
def test_the_first_output_is_that_of_the_adapter(mode: str, names):
    given = random_lora(SHAPES)
    adapters = begun(lora2.RankedLora({names(n): y for n, y in given.layers.items()}), mode)
    folded = adapters.folded()
    for name, layer in given.layers.items():
        up, down = folded[name]
        torch.testing.assert_close(
            (up.flatten(1) @ down.flatten(1)).view_as(layer.delta()), layer.delta(),
            rtol=0, atol=1e-5,
        )  # fmt: skip
    up, down = folded["other"]
    assert not up.any() and down.any(), "what it doesn't have begins at zero"
    x, picture = torch.randn(7, 12), torch.randn(2, 3, 9, 9)
    net = {n: c.module for n, c in adapters.components.items()}
    outputs = net["line"](x), net["conv"](picture)
    adapters.detach()
    delta = given.layers["line"].delta(), given.layers["conv"].delta()
    torch.testing.assert_close(outputs[0], net["line"](x) + x @ delta[0].T, rtol=0, atol=1e-4)
    expected = net["conv"](picture) + nn.functional.conv2d(picture, delta[1], None, 2, 1)
    torch.testing.assert_close(outputs[1], expected, rtol=0, atol=1e-4)


def test_a_layer_begins_with_the_ranks_that_it_has_or_those_of_a_fresh_run():
    assert begun(random_lora(SHAPES), target_rank=1).ranks == {"line": 6, "conv": 6, "other": 5}
    assert begun(random_lora(SHAPES), "fixed").ranks == {"line": 6, "conv": 4, "other": 2}
    assert begun(random_lora(SHAPES), "fixed", target_rank=5).ranks["conv"] == 5


def test_a_layer_of_less_rank_than_it_seems_begins_with_what_it_has():
    layer = random_lora({"line": (20, 12, 2, None)}).layers["line"]
    twice = replace(layer, up=layer.up.repeat(1, 2), down=layer.down.repeat(2, 1))
    adapters = begun(lora2.RankedLora({"line": twice}), "fixed")
    assert adapters.ranks["line"] == 2
    up, down = adapters.folded()["line"]
    torch.testing.assert_close(up @ down, twice.delta(), rtol=0, atol=1e-5)


def test_rows_are_as_long_as_in_a_fresh_run_and_adaptive_ones_orthogonal():
    fresh = lora2.attach(Net(), ".", lora2.RankSettings(target_rank=2, max_rank=10, start_rank=6))
    (component, conv, _), (plain, *_) = (
        list(a.components.values()) for a in (begun(random_lora(SHAPES)), fresh)
    )
    for part in (component, conv):
        rows = part.lora_down[: part.rank].detach()
        gram = rows @ rows.T
        assert (gram / gram.diagonal().mean() - torch.eye(part.rank)).abs().max() < 1e-5
    expected, found = (float(c.lora_down.detach().norm() / c.rank**0.5) for c in (plain, component))
    assert found == pytest.approx(expected, rel=0.2), "the same but for the draw"
    assert not conv.lora_up[:, 4:].any(), "new positions bring nothing yet"


@pytest.mark.parametrize("mode", MODES)
def test_it_goes_on_to_a_lower_loss_and_nothing_fades(mode: str):
    model = Planted([1, 4, 2], width=16)
    settings = lora2.RankSettings(mode=mode, target_rank=4, max_rank=16)
    first = lora2.attach(model, "l", settings)
    *_, end = lora2.train(first, model.loss, lora2.TrainSettings(80, 1e-2))
    adapter = lora2.finish(first)
    first.detach()
    second = lora2.attach(model, "l", settings, start=adapter)
    run = Run(second, lora2.TrainSettings(80, 1e-2, seed=1))
    assert run.settings.weight_decay == 0
    losses = [step.loss for step in run.steps(model.loss)]
    assert losses[0] < 1.5 * end.loss and losses[-1] < 0.8 * losses[0]


def test_weight_decay_is_as_asked():
    adapters = trained()
    start = lora2.finish(adapters)
    again = lora2.attach(Planted([1, 4, 2], width=16), "l", adapters.settings, start=start)
    assert Run(again, lora2.TrainSettings(8, weight_decay=0.5)).settings.weight_decay == 0.5
    fresh = lora2.attach(Planted([1, 4, 2], width=16), "l", adapters.settings)
    assert Run(fresh, lora2.TrainSettings(8)).settings.weight_decay == 1.5


@pytest.mark.parametrize(
    ("shapes", "settings", "sentence"),
    [
        ({"nowhere": (20, 12, 6, None)}, {}, "None of the 1 layers of the adapter to start from is "
         r"trained here \(its first: nowhere; here: line\): choose its layers"),
        ({}, {}, r"None of the 0 layers .* \(its first: none;"),
        (SHAPES, {"max_rank": 5}, "Layer line of the adapter to start from has rank 6, but at most "
         "5 is allowed here: raise max_rank"),
        ({"line": (20, 13, 2, None)}, {}, "is for a weight of 20 x 13, but this model's is 20 x "
         "12: the adapter belongs to another base model"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named_in_a_sentence(shapes: dict, settings: dict, sentence: str):
    with pytest.raises(ValueError, match=sentence) as caught:
        begun(random_lora(shapes), **settings)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


def test_layers_without_rank_begin_anew():
    lora = random_lora(SHAPES)
    empty = lora2.RankedLora({n: y.first(0) for n, y in lora.layers.items()})
    adapters = begun(empty)
    assert not any(up.any() for up, _ in adapters.folded().values())


def test_fill_is_exact_where_rows_are_nearly_alike():
    """A second pass makes the rest orthogonal where the first ones fill nearly all the space."""
    component = Component(nn.Linear(6, 9), 6, torch.device("cpu"), 1)
    component.rank = 6
    component.allocate(6)
    component.initialise(0, 6, 0.3, torch.Generator().manual_seed(0), random_up=False)
    layer = random_lora({"x": (9, 6, 5, None)}).layers["x"].rotated()
    weights = torch.linspace(1, 0.5, 6)
    fill(component, layer, weights, orthogonal=True)
    up, down = component.folded(weights)
    torch.testing.assert_close(up @ down, layer.delta(), rtol=0, atol=1e-5)
    rows = component.lora_down / component.lora_down.norm(dim=1, keepdim=True)
    assert (rows @ rows.T - torch.eye(6)).abs().max() < 1e-5


def test_the_fingerprint_is_of_names_and_values():
    lora = random_lora(SHAPES)
    same = replace(lora, layers=dict(reversed(lora.layers.items())), singular=True)
    assert fingerprint(lora) == fingerprint(same) and len(fingerprint(lora)) == 16
    line = lora.layers["line"]
    others = [
        {"line": line}, {"line": replace(line, up=line.up * 1.001), "conv": lora.layers["conv"]},
        {"lines": line, "conv": lora.layers["conv"]},
    ]  # fmt: skip
    assert len({fingerprint(lora2.RankedLora(o)) for o in others} | {fingerprint(lora)}) == 4


def test_the_order_of_layers_is_that_of_the_model():
    lora = random_lora(SHAPES)
    adapters = begun(lora2.RankedLora(dict(reversed(lora.layers.items()))))
    assert list(adapters.components) == ["line", "conv", "other"]
    assert list(starting_layers(lora, adapters.components)) == ["line", "conv"]


@pytest.mark.parametrize("alike", [False, True])
def test_rows_are_made_orthogonal_together_as_alone(alike: bool):
    def some() -> list[Component]:
        generator = torch.Generator().manual_seed(0)
        found = []
        for fan_in, rank in [(12, 4), (12, 4), (12, 3), (9, 4), (12, 0)] + [(12, 4)] * 40:
            found.append(Component(nn.Linear(fan_in, 20), 8, torch.device("cpu")))
            found[-1].rank = rank
            found[-1].allocate(rank)
            found[-1].initialise(0, rank, 0.5, generator, random_up=False)
        return found

    one_by_one, together = some(), some()
    for component in one_by_one:
        if component.rank:
            component.orthogonalise()
    orthogonalise(together, alike=alike)
    for a, b in zip(one_by_one, together, strict=True):
        torch.testing.assert_close(a.lora_down, b.lora_down, rtol=1e-5, atol=1e-6)
        if not alike:
            assert a.lora_down.equal(b.lora_down)
