"""Blocks that torch.compile makes: the same training, compiled once however ranks move, and a model
that is as before.
"""

import gc
import weakref

import folder_paths
import pytest
import torch

from lora2_core.host.training import compiled, compiled_block, compiler
from lora2_core.host.training.choices import Choices
from lora2_core.host.training.run import train_on
from lora2_core.layers.layer import Component
from tests.host.kept import bytes_of, keep, quiet, stop_at
from tests.host.killed import FIELDS
from tests.host.test_training import hooks_of, state_of
from tests.tiers import fast

from .flow_models import FAMILIES, build, pictures

WITH = {"torch_compile": True}
SLOW_RATE = {"optimizer": "sgd", "learning_rate": 1e-2}  # rounding stays rounding
OWN = {
    "steps": 6, "target_rank": 4, "max_rank": 16, "batch_size": 2, "seed": 3, "mode": "adaptive",
    "start_rank": 8, "layers": "all in blocks", "checkpointing": "off",
} | SLOW_RATE  # fmt: skip


def trained(data, on_step=quiet, **options):
    """An outcome, and the sentences of its run."""
    said: list = []
    with torch.inference_mode():
        outcome = train_on(*data, Choices.of(OWN | options), on_step, on_note=said.append)
    return outcome, said


def data_of(playground) -> tuple:
    return playground.model, playground.latents, playground.positive


def assert_alike(found, wanted, rel: float = 1e-5, apart: float = 1e-4) -> None:
    assert found.stopped_by is None and found.losses == pytest.approx(wanted.losses, rel=rel)
    assert found.lora.ranks == wanted.lora.ranks
    difference, update = 0.0, 0.0
    for name, layer in wanted.lora.layers.items():
        difference += float((found.lora.layers[name].delta() - layer.delta()).square().sum())
        update += float(layer.delta().square().sum())
    assert difference**0.5 <= apart * update**0.5


def test_ranks_move_and_nothing_is_compiled_again(playground, captured):
    counts, ranks = [], []

    def note(step) -> None:
        counts.append(len(captured))
        ranks.append(tuple(step.ranks.values()))

    found, said = trained(data_of(playground), note, steps=8, **WITH)
    assert said == [] and found.lora.origin.run.settings["torch_compile"] is True
    assert counts[0] == counts[-1] > 0, "all is compiled in the first step"
    assert len(set(ranks)) > 4 and min(map(min, ranks)) < 8
    assert_alike(found, trained(data_of(playground), steps=8)[0])


@pytest.mark.parametrize("checkpointing", fast(["off", "on", "offload"], "off", "on"))
@pytest.mark.parametrize("name", fast(list(FAMILIES), "Flux"))
def test_flow_models_learn_the_same(name: str, checkpointing: str, captured):
    options = {"checkpointing": checkpointing, "steps": 3, "mode": "fixed"}
    data = build(name), *pictures(name)
    found, said = trained(data, **options, **WITH)
    assert said == [] and captured
    assert_alike(found, trained(data, **options)[0], rel=1e-4)


def test_the_unet_learns_the_same_with_checkpointing_and_convolutions(playground, captured):
    # positions that are hardly apart turn with rounding where ranks fall
    options = {"checkpointing": "on", "steps": 4, "layers": "all linear + conv", "mode": "fixed"}
    found, said = trained(data_of(playground), **options, **WITH)
    assert said == [] and captured
    assert_alike(found, trained(data_of(playground), **options)[0])


@pytest.mark.slow
def test_pictures_of_two_shapes_are_compiled_apart_and_no_more(playground, captured):
    latents = [
        {"samples": latent["samples"][..., : 8 - 2 * (number % 2), :]}
        for number, latent in enumerate(playground.latents)
    ]
    data = playground.model, latents, playground.positive
    counts, options = [], {"layers": "regex", "targets": r"attn2\.to_q$", "steps": 8}
    found, said = trained(data, lambda step: counts.append(len(captured)), **options, **WITH)
    assert said == [] and counts[0] < counts[-1] == counts[-2] == 2 * counts[0]
    assert_alike(found, trained(data, **options)[0])


def test_what_was_compiled_is_forgotten_with_the_run(playground, captured, monkeypatch):
    from torch._dynamo.eval_frame import _debug_get_cache_entry_list

    held, made = [], []
    first, copy_of = compiled.CompiledBlocks.__init__, compiled.own_copy

    def begin(blocks, loan, adapters, say) -> None:
        first(blocks, loan, adapters, say)
        held.extend(map(weakref.ref, (blocks, adapters)))

    def noted(name: str):
        made.append(copy_of(name))
        return made[-1]

    monkeypatch.setattr(compiled.CompiledBlocks, "__init__", begin)
    monkeypatch.setattr(compiled, "own_copy", noted)
    trained(data_of(playground), steps=2, **WITH)
    gc.collect()
    assert made and not any(_debug_get_cache_entry_list(copy.__code__) for copy in made)
    assert len(held) == 2 and all(each() is None for each in held)


@pytest.mark.parametrize("end", ["finished", "interrupted", "failed"])
def test_everything_is_put_back(end: str, playground, captured, monkeypatch):
    import comfy.model_management

    before = state_of(playground.model), hooks_of(playground.model)
    config = torch._dynamo.config.get_config_copy()
    kinds = [type(module) for module in playground.model.model.modules()]
    on_step = quiet
    if end == "interrupted":
        on_step = stop_at(2)
    if end == "failed":
        on_step = stop_at(2, comfy.model_management.OOM_EXCEPTION)
    found, _ = trained(data_of(playground), on_step, **WITH)
    assert (found.stopped_by is None) == (end == "finished") and captured
    assert (state_of(playground.model), hooks_of(playground.model)) == before
    assert [type(module) for module in playground.model.model.modules()] == kinds
    left = {"forward", compiled_block.PATH}
    assert not any(left & vars(m).keys() for m in playground.model.model.modules())
    assert torch._dynamo.config.get_config_copy() == config


@pytest.mark.slow
def test_a_resumed_run_is_the_uninterrupted_one(playground, captured, tmp_path, monkeypatch):
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    data = data_of(playground)
    options = {"steps": 8, **WITH, "optimizer": "adamw", "learning_rate": 1e-3}
    options |= {"layers": "regex", "targets": r"attn2\."}
    whole, _ = trained(data, **options)
    part, _ = trained(data, stop_at(5), **options, **keep("compiled", every=1))
    rest = keep("compiled", resume=part.checkpoint)
    with pytest.raises(ValueError, match="torch_compile"):
        trained(data, **options | {"torch_compile": False}, **rest)
    again, said = trained(data, **options, **rest)
    assert again.resumed_after == 5 and bytes_of(again)[:2] == bytes_of(whole)[:2] and said == []


@pytest.mark.slow
def test_what_is_done_between_two_steps_is_not_compiled(playground, captured, monkeypatch):
    """Validation and previews compute in other shapes, and without gradients."""
    from lora2_core.host.training.previews import Preview

    data, counts = data_of(playground), []
    preview = Preview(playground.positive[0], playground.vae, preview_every=2, steps=2, seed=7)
    monkeypatch.setattr("lora2_core.host.training.previews.Previews.write", quiet, raising=False)
    options = {"validation_split": 0.25, "validation_every": 2, "previews": (preview,)}
    found, said = trained(data, lambda step: counts.append(len(captured)), **options, **WITH)
    assert said == [] and counts[0] == counts[-1]
    assert_alike(found, trained(data, **options)[0])


def test_capacities_stay_until_a_rank_outgrows_them():
    component = Component(torch.nn.Linear(64, 64), 40, torch.device("cpu"))
    component.allocate(8)
    component.keeps = True
    for rank, wanted in ((3, 8), (0, 8), (8, 8), (9, 16), (2, 16), (17, 32), (40, 40), (1, 40)):
        component.allocate(rank)
        assert component.capacity == wanted


@pytest.mark.slow
def test_ranks_that_outgrow_their_capacity_learn_the_same(playground, captured):
    options = {"start_rank": 1, "target_rank": 8, "layers": "attention", "steps": 12}
    ranks = []
    found, said = trained(
        data_of(playground), lambda step: ranks.append(step.ranks), **options, **WITH
    )
    assert said == [] and max(ranks[-1].values()) > 8 > max(ranks[0].values())
    assert_alike(found, trained(data_of(playground), **options)[0], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", ["off", "on"])
def test_with_torchs_own_compiler_it_learns_the_same(playground, checkpointing: str):
    if (reason := compiler.reason_against(torch.device("cpu"))) is not None:
        pytest.skip(f"there is no compiler here: {reason}")
    options = FIELDS | SLOW_RATE | {"checkpointing": checkpointing, "steps": 5, "targets": "attn"}
    torch._dynamo.utils.counters.clear()
    counts = []

    def note(step) -> None:
        counts.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])

    found, said = trained(data_of(playground), note, **options, **WITH)
    assert said == [] and counts[0] == counts[-1] > 0
    assert_alike(found, trained(data_of(playground), **options)[0])
    again, _ = trained(data_of(playground), **options, **WITH)
    assert bytes_of(again)[:2] == bytes_of(found)[:2]


def test_the_node_passes_it_on(nodes):
    node = nodes["LoRA2MemoryOptions"]
    for given in (True, False):
        (options,) = node.execute(checkpointing="auto", torch_compile=given).result
        assert Choices.of(options).torch_compile is given
    (older,) = node.execute(checkpointing="auto").result
    assert not Choices.of(older).torch_compile
    with pytest.raises(ValueError, match="torch_compile is 1: give"):
        Choices.of({"torch_compile": 1})
