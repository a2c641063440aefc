"""LoRA² Data Options: lists pass through it unharmed, and it adds only what is connected."""

import pytest
import torch

from lora2_core.host.training.choices import Choices
from lora2_core.host.training.masks import MaskSettings
from lora2_core.host.training.prior import PriorSettings

TRAINING = {"steps": 2, "mode": "fixed", "target_rank": 2}
FIELDS = {"prior_weight": [1.0], "mask_blur": [0.0], "mask_floor": [0.1]}


def test_the_defaults_are_what_happens_without_the_node(nodes):
    node = nodes["LoRA2DataOptions"]
    inputs = {field.id: field for field in node.define_schema().inputs}
    assert {k: [inputs[k].default] for k in FIELDS} == FIELDS
    assert node.execute(**FIELDS).result == ({},)
    run = Choices.of(TRAINING)
    assert run.prior == PriorSettings() and run.mask == MaskSettings()


def test_lists_arrive_as_they_are(nodes, playground):
    data, masks = (playground.latents, playground.positive), [torch.ones(1, 32, 32)]
    fields = FIELDS | {"prior_weight": [0.5], "mask_blur": [2.0], "mask_floor": [0.0]}
    given = {"prior_latents": data[0], "prior_positive": data[1], "masks": masks}
    (options,) = nodes["LoRA2DataOptions"].execute(**fields, **given).result
    (chain,) = nodes["LoRA2TargetOptions"].execute(targets="attn2", options=options).result
    run = Choices.of({**chain, **TRAINING})
    assert run.prior.prior_latents is data[0] and run.prior.prior_positive is data[1]
    assert run.mask.masks is masks and run.target.targets == "attn2"
    assert run.prior.prior_weight == 0.5
    assert (run.mask.mask_blur, run.mask.mask_floor) == (2.0, 0.0)


def test_two_of_them_chain(nodes, playground):
    """One for the prior and one for masks: neither undoes the other's weights."""
    node = nodes["LoRA2DataOptions"]
    first = {"prior_latents": playground.latents, "prior_positive": playground.positive}
    (one,) = node.execute(**FIELDS | {"prior_weight": [0.5]}, **first).result
    (two,) = node.execute(**FIELDS, masks=[torch.ones(1, 8, 8)], options=[one]).result
    assert two["prior_weight"] == 0.5 and two["prior_latents"] is playground.latents
    assert two["mask_floor"] == 0.1


@pytest.mark.parametrize("missing", ["prior_latents", "prior_positive"])
def test_half_a_prior_is_refused(nodes, playground, missing: str):
    given = {"prior_latents": playground.latents, "prior_positive": playground.positive}
    del given[missing]
    (options,) = nodes["LoRA2DataOptions"].execute(**FIELDS, **given).result
    with pytest.raises(ValueError, match=f"connect {missing} too"):
        Choices.of({**options, **TRAINING})
