"""What comes more than once is kept once: repeats, other captions, shared captions."""

import torch

from lora2_core.host.training.loan import on_loan
from tests.host.examples import examples_of


def storages(items: list, name: str) -> set[int]:
    return {item.conditions[name].cond.data_ptr() for item in items}


def test_shared_tensors_are_stored_once(playground):
    """Two pictures, one of them twice with another caption and a batch that is listed twice."""
    one, two = (latent["samples"] for latent in playground.latents[:2])
    first, second = playground.positive[:2]
    batch = torch.cat([one, two])
    latents = [{"samples": t} for t in (one, one, two, one, batch, batch)]
    positive = [first, first, first, second, first, second, first, second]
    with on_loan(playground.model) as inner:
        items = examples_of(playground.model, inner, latents, positive)
        alone = [
            examples_of(playground.model, inner, [{"samples": picture.clone()}], [caption])[0]
            for picture, caption in zip(
                [one, one, two, one, one, two, one, two], positive, strict=True
            )
        ]
    assert items[0] is items[1] and items[4] is items[6] and items[5] is items[7]
    assert len({id(item) for item in items}) == 5
    assert len({item.latent.data_ptr() for item in items}) == 4
    assert len(storages(items, "c_crossattn")) == 2
    for found, expected in zip(items, alone, strict=True):
        assert torch.equal(found.latent, expected.latent)
        for name, cond in found.conditions.items():
            assert torch.equal(cond.cond, expected.conditions[name].cond)


def test_one_caption_for_all_is_stored_once(playground):
    with on_loan(playground.model) as inner:
        items = examples_of(playground.model, inner, playground.latents, playground.positive[:1])
    assert len({item.latent.data_ptr() for item in items}) == 4
    assert len(storages(items, "c_crossattn")) == 1
