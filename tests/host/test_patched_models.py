"""Models that other nodes have patched: their patches find what ComfyUI's sampler gives them, and
what training does not follow is said.
"""

import comfy.patcher_extension
import pytest
import torch

from lora2_core.host.training.choices import Choices
from lora2_core.host.training.hints import hints
from lora2_core.host.training.run import train_on
from tests.host.kept import quiet
from tests.host.killed import FIELDS

GIVEN = ("cond_or_uncond", "sigmas", "sample_sigmas", "uuids")  # by the sampler, in each step
APPLY = comfy.patcher_extension.WrappersMP.APPLY_MODEL


def trained(playground, model, **options):
    data = model, playground.latents, playground.positive
    seen = []
    choices = Choices.of(FIELDS | {"steps": 2} | options)
    out = train_on(*data, choices, quiet, on_validated=seen.append)
    return out, seen


def test_a_patch_finds_what_the_sampler_gives(playground):
    model, found = playground.model.clone(), []

    def patch(q, k, v, options):
        found.append({name: options[name] for name in GIVEN})
        return q, k, v

    model.set_model_attn1_patch(patch)
    more = {"validation_split": 0.25, "validation_every": 1, "picture_losses": True}
    out, seen = trained(playground, model, **more)
    plain, unpatched = trained(playground, playground.model, **more)
    assert out.losses == plain.losses and len(seen) == len(unpatched) == 3
    assert seen[-1].losses == unpatched[-1].losses
    levels = found[0]["sample_sigmas"]
    assert levels[-1] == 0 and (levels.diff() < 0).all()
    for given in found:
        assert given["cond_or_uncond"] == [0] and len(given["uuids"]) == 1
        assert levels[-2] <= given["sigmas"].min() and given["sigmas"].max() <= levels[0]


def test_a_patch_that_fails_is_named(playground):
    def patch(q, k, v, options):
        return options["only in sampling"]

    model = playground.model.clone()
    model.set_model_attn1_patch(patch)
    sentence = "another node has put into this model fails in training .KeyError: 'only in sampl"
    with pytest.raises(ValueError, match=sentence):
        trained(playground, model)


def test_captions_that_do_not_fit_are_not_blamed_on_patches(playground):
    model = playground.model.clone()
    model.set_model_attn1_patch(lambda q, k, v, options: (q, k, v))
    (cross, facts), *_ = playground.positive[0]
    positive = [[[torch.cat([cross, cross], -1), facts]]]
    with pytest.raises(ValueError, match="positive doesn't suit this model"):
        train_on(model, playground.latents, positive, Choices.of(FIELDS), quiet)


def test_wrappers_are_said(playground):
    model = playground.model.clone()
    assert not any("Wrappers" in str(note) for note in hints(model, Choices.of(FIELDS)))
    model.add_wrapper_with_key(APPLY, "torch.compile", quiet)
    assert not any("Wrappers" in str(note) for note in hints(model, Choices.of(FIELDS)))
    model.add_wrapper_with_key(APPLY, "faster", quiet)
    model.add_wrapper(APPLY, quiet)
    model.set_model_unet_function_wrapper(quiet)
    (note,) = [note for note in hints(model, Choices.of(FIELDS)) if "Wrappers" in str(note)]
    assert note[1] == "faster, without a name, model_function_wrapper"
