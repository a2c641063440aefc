"""A training adapter: a LoRA that Load LoRA puts under the model while it is trained. What is
learned does not hold it, and works on the model without it.
"""

import comfy.lora
import comfy.sd
import pytest
import torch

from lora2_core.host.apply import apply_lora
from lora2_core.host.training.choices import Choices
from lora2_core.host.training.run import train_on
from tests.host.kept import quiet
from tests.models.build import build
from tests.models.data import data_for
from tests.models.trial import Trial
from tests.tiers import fast

FIELDS = {"steps": 3, "mode": "fixed", "target_rank": 2, "learning_rate": 1e-2}


def training_adapter(model) -> dict:
    """A LoRA file of all layers that a training takes, as tensors by the host's names."""
    generator, tensors = torch.Generator().manual_seed(7), {}
    keys = comfy.lora.model_lora_keys_unet(model.model, {})
    names = {k: n for n, k in keys.items() if isinstance(k, str) and n.startswith("diffusion_m")}
    for name, module in Choices.of(FIELDS).target.chosen(model.model).items():
        sides = module.out_features, module.in_features
        file = names[f"{name}.weight"]
        tensors[f"{file}.lora_B.weight"] = torch.randn(sides[0], 2, generator=generator) * 0.2
        tensors[f"{file}.lora_A.weight"] = torch.randn(2, sides[1], generator=generator) * 0.2
    return tensors


@pytest.mark.parametrize("name", fast(["ZImage", "Flux2", "SDXL"]))
def test_what_is_learned_over_it_does_not_hold_it(name: str):
    model = build(name)
    data, choices = data_for(name, model), Choices.of(FIELDS)
    under, _ = comfy.sd.load_lora_for_models(model, None, training_adapter(model), 1.0, 0.0)
    assert under.patches and not model.patches

    plain = train_on(model, *data, choices, quiet)
    over = train_on(under, *data, choices, quiet)
    assert over.lora.layers.keys() == plain.lora.layers.keys()
    assert {layer.rank for layer in over.lora.layers.values()} == {2}, "no rank of the other"
    assert over.losses[0] != plain.losses[0], "it was under the model"

    trial = Trial(name)
    trial.latents, trial.positive = data
    base, adapted = trial.predicted(model), trial.predicted(under)
    assert not torch.equal(base, adapted)
    ours, _ = apply_lora(model, None, over.lora, 1.0, 1.0)
    both, _ = apply_lora(under, None, over.lora, 1.0, 1.0)
    nothing, _ = apply_lora(model, None, over.lora, 0.0, 0.0)
    torch.testing.assert_close(trial.predicted(nothing), base)
    assert not torch.allclose(trial.predicted(ours), trial.predicted(both))
    torch.testing.assert_close(trial.predicted(under), adapted, msg="it stays as it came in")
