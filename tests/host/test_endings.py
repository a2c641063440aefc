"""However a training ends, what it learned is kept, finite and saved, and the host is as before: a
short form of `nox -s chaos`.
"""

import sys

import comfy.model_management
import pytest
import torch

import lora2_core as lora2
from lora2_core.host import store
from lora2_core.host.training.run import Interrupt, kept_error
from tests.host.kept import stop_at
from tests.reliability import endings
from tests.reliability.endings import left_behind, memory_faults, nan_from, poisoned, raise_at
from tests.reliability.trainings import losses_through
from tests.tiers import fast


@pytest.mark.parametrize("end", endings.ENDINGS, ids=lambda end: end.__name__)
def test_nothing_is_changed(trainings, end):
    comfy.model_management.unload_all_models()  # with patches that another test has left loaded
    before = endings.host_state(trainings.model)
    end(trainings)
    assert endings.changed(before, endings.host_state(trainings.model)) == []


@pytest.mark.slow
def test_nothing_is_left_behind_and_nothing_grows(trainings):
    assert left_behind(trainings, 2) == []


def test_what_is_left_behind_would_be_seen(trainings, monkeypatch):
    """The tests above prove nothing unless a change of each kind is found."""
    first = next(trainings.model.model.parameters())

    def end(trainings) -> None:
        torch.manual_seed(3)
        first.requires_grad_(not first.requires_grad)
        trainings.model.model.training = not trainings.model.model.training
        trainings.model.patches["x"] = []

    before = endings.host_state(trainings.model)
    end(trainings)
    found = endings.changed(before, endings.host_state(trainings.model))
    assert {"random", "parameters", "training flags", "patches"} <= set(found)
    end(trainings)
    del trainings.model.patches["x"]


@pytest.mark.parametrize("count", fast([1, 3]))
def test_values_that_are_not_finite_are_never_kept(trainings, count: int):
    assert poisoned(trainings, 1, count)[1] == []


def test_too_little_memory_keeps_what_was_learned(trainings, monkeypatch):
    monkeypatch.setattr(endings, "MEMORY_STEPS", 2)
    assert memory_faults(trainings)[1] == []


@pytest.fixture
def node(nodes):
    """LoRA² Train; no server is told of its steps."""
    return nodes["LoRA2Train"]


def arguments(playground) -> dict:
    return {
        "model": [playground.model], "latents": playground.latents,
        "positive": playground.positive, "steps": [6], "batch_size": [2], "learning_rate": [1e-2],
        "mode": ["adaptive"], "target_rank": [4], "budget_mb": [0.0], "max_rank": [8], "seed": [0],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (torch.OutOfMemoryError("CUDA is full."), torch.OutOfMemoryError, "lower batch_size"),
        (RuntimeError("can't allocate memory."), torch.OutOfMemoryError, "lower batch_size"),
        (KeyError("surprise"), RuntimeError, "surprise"),
        (ZeroDivisionError("division."), RuntimeError, "division"),
    ],
)
def test_the_node_saves_what_was_learned_and_says_why(node, playground, error, kind, words):
    with losses_through(raise_at(4, error)), pytest.raises(kind) as caught:
        node.execute(**arguments(playground), options=[{"checkpointing": "off", "start_rank": 4}])
    text = str(caught.value)
    assert words in text and "saved as lora2/interrupted_" in text and "\n" not in text
    name = text.split("saved as ")[1].split(".safetensors")[0] + ".safetensors"
    lora = lora2.load(store.lora_path(name))
    assert any(layer.up.any() for layer in lora.layers.values())


def test_a_save_that_fails_does_not_hide_why_the_run_ended(node, playground, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "save", full)
    with losses_through(nan_from(3)), pytest.raises(RuntimeError) as caught:
        node.execute(**arguments(playground) | {"steps": [40]})
    assert "not a finite number" in str(caught.value)
    assert "could not be saved" in str(caught.value) and "No space left" in str(caught.value)


@pytest.mark.parametrize(
    ("error", "unexpected"),
    [(Interrupt(), False), (torch.OutOfMemoryError("full"), False), (KeyError("surprise"), True)],
)
def test_only_an_error_that_nobody_expects_is_in_the_log_with_its_traceback(
    error, unexpected, caplog
):
    """A cancelled run is no error. Without anything learned, the others are raised at once."""
    assert kept_error(error, learned=True) is error
    assert ("ended by an error" in caplog.text) is unexpected
    if not unexpected:
        assert kept_error(error, learned=False) is error


def test_an_error_before_anything_is_learned_stays_that_error(node, playground):
    with losses_through(raise_at(1, KeyError("surprise"))), pytest.raises(KeyError):
        node.execute(**arguments(playground))


def test_a_run_whose_optimizer_breaks_ends_with_the_last_good_copy(trainings):
    whole = trainings(stop_at(4), steps=40)
    out = endings.with_bad_moments(trainings, 5, float("nan"))
    assert "not finite after step" in str(out.stopped_by) and "of step 4." in str(out.stopped_by)
    assert out.lora.ranks == whole.lora.ranks  # the copy of step 4
    for name, layer in out.lora.layers.items():
        torch.testing.assert_close(layer.delta(), whole.lora.layers[name].delta())


def test_an_adapter_that_can_not_be_applied_is_kept(node, playground, monkeypatch):
    def fails(*args):
        raise ValueError("It does not fit.")

    monkeypatch.setattr(sys.modules[node.__module__], "apply_lora", fails)
    with pytest.raises(RuntimeError, match=r"It does not fit\. The adapter .*saved as") as caught:
        node.execute(**arguments(playground))
    name = str(caught.value).split("saved as ")[1].split(".safetensors")[0] + ".safetensors"
    assert lora2.load(store.lora_path(name)).layers
