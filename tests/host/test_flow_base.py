"""The second base of the experiments on ranks is a flow model of the host's, and its training goes
on where it stopped.
"""

from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import comfy.model_base
import comfy.model_sampling
import pytest
import torch

from lora2_core import RankSettings, TrainSettings
from lora2_core.host.training.choices import Choices
from lora2_core.host.training.run import train_on
from lora2_core.host.training.timesteps import usual
from lora2_core.layers.targets import TargetSettings
from lora2_core.playground import asset
from lora2_core.playground.asset import TEXT_WIDTH
from tests.playground.flow import BLOCKS, FILE, SHAPE, build_model, load_flow_model, save_flow
from tests.playground.train_flow import Training, initialise


@pytest.fixture(scope="module")
def parts() -> asset.Asset:
    return asset.load()


@pytest.fixture
def flow(parts: asset.Asset, tmp_path: Path):
    """The base with random weights, also where training begins with zeros."""
    with torch.inference_mode(False):
        model = build_model(parts).diffusion_model
        torch.manual_seed(0)
        initialise(model)
        weights = {k: v + 0.01 * torch.randn_like(v) for k, v in model.state_dict().items()}
        save_flow(tmp_path / FILE, weights, SHAPE)
        return load_flow_model(tmp_path / FILE, parts)


def test_it_is_a_flow_model_of_the_host(flow):
    assert isinstance(flow.model, comfy.model_base.SD3)
    assert isinstance(flow.model.model_sampling, comfy.model_sampling.CONST)
    assert usual(flow) == "logit_normal"


@pytest.mark.parametrize(
    ("kind", "count"), [("attention", 4 * BLOCKS - 1), ("all in blocks", 8 * BLOCKS - 3)]
)
def test_its_layers_are_found(flow, kind: str, count: int):
    """In each block q, k, v in one layer, what attention puts out, and two layers of feed-forward,
    for pictures and for text; of text, the last block has q, k and v alone.
    """
    assert len(TargetSettings(kind).chosen(flow.model)) == count


def test_it_is_trained_as_any_model_is(flow, playground):
    pictures = playground.latents, playground.positive
    choices = Choices(
        RankSettings(mode="fixed", target_rank=2), TrainSettings(20, 1e-2), batch_size=4,
        target=TargetSettings("all in blocks"),
    )  # fmt: skip
    losses = []
    train_on(flow, *pictures, choices, lambda step: losses.append(step.loss))
    assert sum(losses[-5:]) < sum(losses[:5])


def test_without_it_the_command_is_named(parts: asset.Asset, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="train-flow"):
        load_flow_model(tmp_path / FILE, parts)


def test_training_goes_on_where_it_stopped(parts: asset.Asset, tmp_path: Path):
    """Two steps and two more are four steps."""
    generator = torch.Generator().manual_seed(0)
    data = SimpleNamespace(
        latents=torch.randn(6, 8, 8, 8, generator=generator),
        hidden=torch.randn(6, 16, TEXT_WIDTH, generator=generator),
        pooled=torch.randn(6, TEXT_WIDTH, generator=generator),
        texts_of=lambda index, rng: list(index),
    )
    found = []
    with torch.inference_mode(False), torch.enable_grad():
        for name, stops in (("whole", [4]), ("parts", [2, 4])):
            (folder := tmp_path / name).mkdir()
            for stop in stops:
                torch.manual_seed(0)
                args = Namespace(folder=folder, steps=4, batch=2, rate=1e-3)
                training = Training(data, parts, args)
                training.resume()
                while training.step < stop:
                    training.update()
                training.save()
            found.append(training.average)
    for whole, resumed in zip(*found, strict=True):
        torch.testing.assert_close(whole, resumed)
