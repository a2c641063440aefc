"""What torch.compile can't take is computed without it: one sentence is said, nothing is lost."""

from contextlib import ExitStack

import pytest
import torch
from torch._inductor.exc import InvalidCxxCompiler

from lora2_core import RankSettings, attach
from lora2_core.host.training import (
    compiled,
    compiled_block,
    compiler,
    gradient_checkpointing,
)
from lora2_core.host.training.attention import OVERRIDE
from lora2_core.host.training.loan import lent
from tests.benchmarks import quantised
from tests.host.kept import bytes_of, quiet
from tests.host.test_compiled import WITH, assert_alike, data_of, trained
from tests.host.test_frozen import weights_in_ram

from .flow_models import build, pictures


def test_without_a_compiler_one_sentence_is_said_and_the_run_is_the_same(playground, monkeypatch):
    def broken(module, inputs):
        raise InvalidCxxCompiler

    monkeypatch.setattr(compiler, "backend", broken)
    found, said = trained(data_of(playground), **WITH)
    ((sentence, reason),) = said
    assert sentence == compiled.WITHOUT and "compiler" in reason.lower() and "\n" not in reason
    assert bytes_of(found)[:2] == bytes_of(trained(data_of(playground))[0])[:2]


def test_a_block_that_cant_be_compiled_is_computed_without(playground, captured, monkeypatch):
    def broken(module, inputs):
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(compiled, "backend", broken)
    found, said = trained(data_of(playground), **WITH)
    assert len(said) == 1 and said[0][0] == compiled.SOME and "no such kernel" in said[0][1]
    assert_alike(found, trained(data_of(playground))[0])


@pytest.mark.slow
def test_gradients_that_cant_be_compiled_cost_no_step(playground, captured, monkeypatch):
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            raise InvalidCxxCompiler

    def late(module, inputs):
        return lambda *given: tuple(
            Broken.apply(out) if torch.is_tensor(out) else out for out in module.forward(*given)
        )

    monkeypatch.setattr(compiled, "backend", late)
    found, said = trained(data_of(playground), **WITH)
    assert [note[0] for note in said] == [compiled.WITHOUT]
    assert_alike(found, trained(data_of(playground))[0])


def test_quantised_layers_are_computed_without(captured):
    model = quantised.with_layers(quantised.KINDS["fp8 scaled"], plain=False)
    options = {"steps": 2, "mode": "fixed", "targets": r"double_blocks\.0", "layers": "regex"}
    found, said = trained((model, *pictures("Flux")), **options, **WITH)
    assert [note[3] for note in said] == ["a layer computes in a way of its own"] and not captured
    wanted, _ = trained((model, *pictures("Flux")), **options)
    assert bytes_of(found)[:2] == bytes_of(wanted)[:2]


def test_weights_that_are_cast_are_computed_without(captured):
    """The compiler would keep the copies for the backward pass, which are a second model."""
    model = quantised.with_layers(quantised.KINDS["fp8 without a scale"], plain=False)
    options = {"steps": 2, "mode": "fixed", "targets": r"double_blocks\.0", "layers": "regex"}
    found, said = trained((model, *pictures("Flux")), **options, **WITH)
    assert [note[3] for note in said] == ["weights are cast as they are used"] and not captured
    wanted, _ = trained((model, *pictures("Flux")), **options)
    assert bytes_of(found)[:2] == bytes_of(wanted)[:2]


def test_weights_in_ram_are_computed_without(captured, monkeypatch):
    model = build("Flux")
    options = {"steps": 2, "mode": "fixed"}
    wanted, _ = trained((model, *pictures("Flux")), **options)
    with torch.inference_mode(False), weights_in_ram(model, monkeypatch):
        found, said = trained((model, *pictures("Flux")), **options, **WITH)
    assert said == [[compiled.PARTLY, "4", "4", "weights lie in RAM"]] and not captured
    assert found.losses == pytest.approx(wanted.losses, rel=1e-6)


def test_a_layer_whose_weight_is_elsewhere_is_known(playground, captured):
    with lent(playground.model) as loan, ExitStack() as stack:
        settings = RankSettings(target_rank=2, max_rank=4)
        adapters = attach(
            loan.inner, r"attn2\.to_q$", settings, device="cpu", frozen=loan.frozen.of
        )
        stack.callback(adapters.detach)
        blocks = compiled.compiled_blocks(loan, adapters, quiet, stack).blocks
        layer = blocks[0].layers[0].module
        assert blocks[0].reason_now() is None
        layer.weight_function = [lambda w: w]
        assert blocks[0].reason_now() == "weights are patched as they are used"
        del layer.weight_function
        blocks[0].owner.like = torch.empty(0, device="meta")
        assert blocks[0].reason_now() == "weights lie in RAM"


def test_layers_of_blocks_that_are_left_out_shrink_with_their_ranks(captured, monkeypatch):
    """Capacities stay for what is compiled alone."""
    held, first = [], compiled.CompiledBlocks.__init__

    def begin(blocks, loan, adapters, say) -> None:
        first(blocks, loan, adapters, say)
        held.append(adapters)

    capacities = []

    def note(step) -> None:
        layers = held[0].components.values()
        capacities.append([(c.capacity, c.rank) for c in layers])

    monkeypatch.setattr(compiled.CompiledBlocks, "__init__", begin)
    model = quantised.with_layers(quantised.KINDS["fp8 scaled"], plain=False)
    options = {"start_rank": 16, "target_rank": 1, "steps": 10, "layers": "all in blocks"}
    trained((model, *pictures("Flux")), note, **options, **WITH)
    assert not captured and max(c for c, _ in capacities[0]) == 16
    assert all(c <= 8 * -(-rank // 8) for c, rank in capacities[-1])
    assert min(c for c, _ in capacities[-1]) < 16


@pytest.mark.parametrize("checkpointing", ["off", "on"])
def test_a_model_that_writes_over_its_values_is_computed_without(
    checkpointing, captured, monkeypatch
):
    monkeypatch.setattr(compiled_block, "is_copying", lambda: True)
    monkeypatch.setattr(gradient_checkpointing, "is_copying", lambda: True)
    options = {"steps": 2, "mode": "fixed", "checkpointing": checkpointing}
    _, said = trained((build("Flux"), *pictures("Flux")), **options, **WITH)
    assert {note[3] for note in said} == {compiled_block.OVERWRITES} and not captured
    assert sum(int(note[1]) for note in said) == int(said[0][2])


def test_blocks_that_another_node_computes_are_counted(captured):
    model = build("Flux")
    block = model.model.diffusion_model.double_blocks[0]
    block.forward = block.forward
    try:
        _, said = trained((model, *pictures("Flux")), steps=2, mode="fixed", **WITH)
    finally:
        del block.forward
    assert said == [[compiled.PARTLY, "1", "4", compiled.OTHERS]] and captured


@pytest.mark.parametrize("reason", ["attention loss", "override", "patches", "no block"])
def test_what_would_be_left_out_of_a_block_is_not_compiled(reason: str, playground, captured):
    model, options = playground.model.clone(), {}
    if reason == "attention loss":
        options = {"mode": "paper", "steps": 2}
    elif reason == "no block":
        options = {"layers": "regex", "targets": r"^diffusion_model\.time_embed"}
    else:
        other = lambda func, *args, **named: func(*args, **named)  # noqa: E731
        patches = {"patches": {"middle_patch": [lambda x, options: x]}}
        own = {OVERRIDE: other} if reason == "override" else patches
        model.model_options["transformer_options"] = own
    data = model, playground.latents, playground.positive
    found, said = trained(data, **options, **WITH)
    assert [note[0] for note in said] == [compiled.WITHOUT] and not captured
    assert bytes_of(found)[:2] == bytes_of(trained(data, **options)[0])[:2]
