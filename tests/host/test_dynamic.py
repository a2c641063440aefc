"""A model whose weights the host streams: trained on the memory that its file is mapped to."""

from collections import namedtuple

import pytest
import torch
from comfy.model_patcher import ModelPatcher

from lora2_core import RankSettings, TrainSettings
from lora2_core.host.training.choices import Choices
from lora2_core.host.training.loan import DYNAMIC, trainable_clone
from lora2_core.host.training.run import train_on
from tests.host.flow_models import build, pictures

Backup = namedtuple("Backup", ["weight", "inplace_update"])
FIRST = "diffusion_model.img_in.weight"


class Streamed(ModelPatcher):
    """Stands in for the host's ModelPatcherDynamic, which needs a GPU: what is loaded is noted in
    the modules, small weights are cast and their originals kept.
    """

    def is_dynamic(self) -> bool:
        return True


@pytest.fixture
def streamed():
    plain = build("Flux")
    patcher = Streamed(plain.model, plain.load_device, plain.offload_device)
    model, weight = patcher.model, patcher.model.diffusion_model.img_in.weight
    model.dynamic_vbars, model.dynamic_pins = {"card": object()}, {"card": {}}
    for part in model.modules():
        if hasattr(part, "comfy_cast_weights"):
            part.comfy_cast_weights, part._v, part.seed_key = True, object(), "x"
    patcher.backup[FIRST] = Backup(weight.data, False)
    model.diffusion_model.img_in.weight = torch.nn.Parameter(weight.data + 1, requires_grad=False)

    def read(*_, **__):
        raise AssertionError("the file is read again")

    patcher.cached_patcher_init = (read, ())
    return patcher


def test_nothing_is_read_or_copied(streamed):
    clone, model = trainable_clone(streamed), streamed.model
    assert type(clone) is ModelPatcher and clone.model is not model
    theirs = dict(model.named_parameters()) | dict(model.named_buffers())
    ours = dict(clone.model.named_parameters()) | dict(clone.model.named_buffers())
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor is not theirs[name]
        expected = streamed.backup[FIRST].weight if name == FIRST else theirs[name]
        assert tensor.data_ptr() == expected.data_ptr()
    for part in clone.model.modules():
        assert not DYNAMIC & vars(part).keys()
        assert getattr(part, "comfy_cast_weights", False) == getattr(
            type(part), "comfy_cast_weights", False
        )
    assert model.dynamic_vbars and model.diffusion_model.img_in._v is not None


def test_it_trains_and_is_as_it_was(streamed):
    before = {k: (v.data_ptr(), v.clone()) for k, v in streamed.model.state_dict().items()}
    choices = Choices(RankSettings(mode="fixed", target_rank=2), TrainSettings(3, 1e-2))
    with torch.inference_mode():
        out = train_on(streamed, *pictures("Flux"), choices, lambda step: None)
    assert out.stopped_by is None and len(out.losses) == 3
    assert all(bool(layer.up.abs().sum() > 0) for layer in out.lora.layers.values())
    after = streamed.model.state_dict()
    assert all(after[k].data_ptr() == p and after[k].equal(v) for k, (p, v) in before.items())
