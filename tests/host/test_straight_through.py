"""Quantised layers that compute as the host does while it samples, and learn by the dequantised
weight.
"""

import pytest
import torch

from lora2_core.host.training.choices import Choices
from lora2_core.host.training.facts import settings_of
from lora2_core.host.training.frozen import FrozenLayers
from lora2_core.host.training.hints import hints
from lora2_core.host.training.loan import lent
from lora2_core.host.training.out_of_place import OutOfPlace
from lora2_core.host.training.run import train_on
from tests.benchmarks import quantised as made
from tests.host.kept import bytes_of, keep, quiet, stop_at
from tests.tiers import fast

from .flow_models import pictures
from .test_frozen import LAYERS, adapted, gradients, input_of

NOTE = "This model has no quantised layers: straight_through changes nothing."
QUANTISED = [name for name in LAYERS if name not in ("plain", "bf16", "patched", "conv")]


@pytest.fixture(autouse=True)
def autograd():
    with torch.inference_mode(False), torch.enable_grad():
        yield


def made_here(name: str):
    try:
        return LAYERS[name]()
    except (RuntimeError, NotImplementedError) as error:
        pytest.skip(f"the host can't make one here: {error}")


@pytest.mark.parametrize("learns", [True, False], ids=["adapted", "alone"])
@pytest.mark.parametrize("name", QUANTISED)
def test_outputs_are_the_hosts_and_gradients_those_of_the_plain_weight(name: str, learns: bool):
    module, weight = made_here(name)
    with torch.no_grad():
        hosts = module(input_of(module).detach())
    layers = FrozenLayers([module])
    layers.straight_through()
    ours, path = (adapted(module, layers.of) if learns else None), 0.0
    with OutOfPlace():
        y, of_x, *_ = gradients(module, ours)
    of_y = 2 * y / y.numel()
    wanted = of_y @ weight
    if ours is not None:
        ((up, down),) = ours.folded().values()
        path = input_of(module).detach() @ down.T @ up.T
        wanted = wanted + of_y @ up @ down
        torch.testing.assert_close(y, hosts + path, rtol=0, atol=1e-5 * float(y.abs().max()))
        ours.detach()
    else:
        assert torch.equal(y, hosts)
    torch.testing.assert_close(of_x, wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))
    layers.remove()
    assert "forward" not in vars(module)


@pytest.mark.parametrize("name", QUANTISED)
def test_flow_models_learn_from_every_format(name: str):
    """They are computed under a mode that has other forms for some of the host's kernels."""
    module, weight = made_here(name)
    layers = FrozenLayers([module])
    with OutOfPlace():
        y, of_x = gradients(module, None)
    wanted = 2 * y / y.numel() @ weight
    torch.testing.assert_close(of_x, wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))
    layers.remove()


def test_inputs_are_not_written_into():
    module, _ = LAYERS["fp8, other kernels"]()
    FrozenLayers([module]).straight_through()
    x = (1000 * input_of(module)).detach().bfloat16().requires_grad_()
    before = x.detach().clone()
    module(x).sum().backward()
    assert torch.equal(x, before)


@pytest.fixture(scope="module")
def flux():
    with torch.inference_mode(False):
        return made.with_layers(made.KINDS["nvfp4, smoothed inputs"], plain=False)


def trained(flux, on_step=quiet, **options):
    own = {"straight_through": True, "targets": r"double_blocks\.0", "steps": 3, "mode": "fixed"}
    own |= {"learning_rate": 1e-3, "target_rank": 4, "checkpointing": "off"}
    return train_on(flux, *pictures("Flux"), Choices.of(own | options), on_step)


def test_a_run_begins_with_the_loss_that_the_host_would_have(flux):
    straight, plain = trained(flux), trained(flux, straight_through=False)
    assert straight.losses != plain.losses
    with lent(flux) as loan:
        draw = made.draw_of(flux, loan)
        ours = [made.predicted(loan.inner, draw)]
        loan.frozen.straight_through()
        ours.append(made.predicted(loan.inner, draw))
    hosts = made.sampled(flux)
    assert torch.equal(ours[1], hosts) and not torch.equal(ours[0], hosts)
    assert straight.lora.origin.run.settings["straight_through"] is True
    assert "straight_through" not in plain.lora.origin.run.settings


@pytest.mark.parametrize("way", fast(["on", "offload"], "on"))
def test_checkpointing_computes_the_same(flux, way: str):
    plain, again = trained(flux), trained(flux, checkpointing=way)
    assert again.stopped_by is None and again.losses == pytest.approx(plain.losses, rel=1e-4)


def test_a_resumed_run_is_the_uninterrupted_one(flux, tmp_path, monkeypatch):
    import folder_paths

    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    whole = trained(flux, steps=4)
    part = trained(flux, stop_at(2), steps=4, **keep("straight", every=1))
    rest = keep("straight", resume=part.checkpoint)
    with pytest.raises(ValueError, match="straight_through"):
        trained(flux, steps=4, straight_through=False, **rest)
    again = trained(flux, steps=4, **rest)
    assert again.resumed_after == 2 and bytes_of(again)[:2] == bytes_of(whole)[:2]


def test_a_model_without_such_layers_is_told_so(playground, flux):
    straight = Choices.of({"straight_through": True})
    assert NOTE in hints(playground.model, straight)
    assert NOTE not in hints(flux, straight)
    assert NOTE not in hints(playground.model, Choices.of({}))
    data = playground.model, playground.latents, playground.positive
    options = {"steps": 2, "targets": r"attn2\.to_q$", "mode": "fixed"}
    found = [
        train_on(*data, Choices.of(options | {"straight_through": on}), quiet).losses
        for on in (False, True)
    ]
    assert found[0] == found[1]


def test_the_node_passes_it_on(nodes):
    node = nodes["LoRA2MemoryOptions"]
    for given in (True, False):
        (options,) = node.execute(checkpointing="auto", straight_through=given).result
        assert Choices.of(options).straight_through is given
    (older,) = node.execute(checkpointing="auto").result
    assert "straight_through" not in settings_of(Choices.of(older))
    with pytest.raises(ValueError, match="straight_through is 'yes': give"):
        Choices.of({"straight_through": "yes"})


def test_the_table_says_what_the_page_says():
    """Gradients differ by at most 2 % from those on a dequantised copy, in every format."""
    found = made.row_of(made.KINDS["nvfp4"])
    assert max(found["dequantised"][:3]) < 0.02 < min(found["straight through"][:2])
    assert found["straight through"][3] == 0 < found["dequantised"][3]
