"""A run that is taken up again goes on to the same bytes; a file that doesn't fit says why."""

from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lora2_core as lora2
from lora2_core.training import checkpoint
from lora2_core.training.checkpoint import Card, decode, encode, read_card, resume
from lora2_core.training.run import PATIENCE, Run, TrainingDiverged
from lora2_core.training.run_state import captured, restore
from lora2_core.training.settings import TrainSettings
from tests.tiers import each_once, fast
from tests.toys import Planted, global_randomness_untouched
from tests.training.test_optimizers import RATES

STEPS = 60  # reviews from step 6 on; at 14 ranks are on their way
SETTINGS = {"steps": STEPS, "mode": "adaptive", "weight_decay": None}


def fresh(mode: str = "adaptive", half: bool = False, width: int = 16, **training) -> tuple:
    """A run at its start, and its loss."""
    model = Planted([1, 4, 2], width=width, noise=0.2)
    rank = lora2.RankSettings(mode=mode, target_rank=8, max_rank=16)
    adapters = lora2.attach(model, "l", rank, seed=3)
    training = TrainSettings(**{"steps": STEPS, "learning_rate": 1e-2, "seed": 3} | training)
    return Run(adapters, training, half=half), model.loss


def go(run: Run, loss, count: int = STEPS) -> None:
    """Some more steps."""
    steps = run.steps(loss)
    for _ in range(count):
        if next(steps, None) is None:
            break


def card(run: Run, **fields) -> Card:
    return Card(**vars(Card.of(run, "abc", 1, SETTINGS)) | fields)


def everything(run: Run) -> bytes:
    """The whole state as bytes, by way of the file, and the adapter as it would be saved."""
    saved = encode(run, card(run))
    run.optimizer.take_means()
    update = [t.numpy().tobytes() for pair in run.adapters.folded().values() for t in pair]
    return saved + b"".join(update)


def same_after(tmp_path: Path, stops: list[int], mode: str = "adaptive", **options) -> None:
    """Stopping at some steps changes no byte."""
    whole, loss = fresh(mode, **options)
    go(whole, loss)
    path = tmp_path / "a.safetensors"
    part, loss = fresh(mode, **options)
    for before, stop in zip([0, *stops], stops, strict=False):
        go(part, loss, stop - before)
        path.write_bytes(encode(part, card(part)))
        part, loss = fresh(mode, **options)
        torch.rand(7)  # whatever else happens in another process
        assert resume(part, path, SETTINGS).step == stop == len(part.losses)
    go(part, loss)
    assert part.losses == whole.losses and part.mean_ranks == whole.mean_ranks
    assert part.adapters.ranks == whole.adapters.ranks
    assert everything(part) == everything(whole)


@pytest.mark.parametrize("mode", ["adaptive", "paper", "fixed"])
def test_a_resumed_run_gives_the_same_bytes(mode: str, tmp_path: Path):
    same_after(tmp_path, [1, 14, 40], mode)


def test_ranks_move_on_both_sides_of_the_checkpoint():
    """The test above means something."""
    run, loss = fresh()
    go(run, loss, 14)
    middle = run.adapters.ranks
    assert run.price.targets is not None and middle != fresh()[0].adapters.ranks
    go(run, loss)
    assert run.adapters.ranks != middle


@pytest.mark.parametrize("stop", fast([31, 0, 5, 59, 60]))
def test_any_step_will_do(stop: int, tmp_path: Path):
    same_after(tmp_path, [stop], ema=0.9)


def test_every_step_will_do(tmp_path: Path):
    """Rates are held at their first values from below, and so return to them exactly."""
    states, path, returned = [], tmp_path / "a.safetensors", 0
    whole, loss = fresh()
    first = whole.adapters.rate_parameter.detach().clone()
    moved = torch.zeros(len(first), dtype=torch.bool)
    for _ in whole.steps(loss):
        states.append(encode(whole, card(whole)))
        away = whole.adapters.rate_parameter.detach() != first
        returned += int((moved & ~away).sum())
        moved = away
    assert returned > 0
    for step, state in enumerate(states, 1):
        path.write_bytes(state)
        part, loss = fresh()
        resume(part, path, SETTINGS)
        for later, _ in enumerate(islice(part.steps(loss), 3), step):
            alike = encode(part, card(part)) == states[later]
            assert alike, f"taken up after step {step}, it differs after step {later + 1}"


def test_a_state_of_an_earlier_version_goes_on():
    """What it lacks of the auction's values stays as in a new run."""
    run, loss = fresh()
    go(run, loss, 14)
    state = captured(run)
    del state["price"]["cleaned"]
    part, loss = fresh()
    restore(part, state)
    assert (part.price.index, part.price.cleaned) == (14, [None] * len(run.adapters.components))
    go(part, loss)
    assert len(part.losses) == STEPS


@pytest.mark.parametrize(
    ("name", "ema"), each_once(["adamw", "adam", "sgd", "adafactor"], [0.0, 0.9])
)
def test_every_optimizer(name: str, ema: float, tmp_path: Path):
    mode = "fixed" if name == "adafactor" else "adaptive"
    options = {"optimizer": name, "ema": ema, "learning_rate": RATES[name], "max_norm": 1.0}
    same_after(tmp_path, [33], mode, **options, schedule="cosine", warmup_steps=40)


def test_prodigy(tmp_path: Path):
    pytest.importorskip("prodigyopt")
    same_after(tmp_path, [20, 33], optimizer="prodigy", learning_rate=1.0, ema=0.9)


def test_the_scale_of_the_loss_is_kept(tmp_path: Path):
    same_after(tmp_path, [20], half=True)
    run, _ = fresh(half=True)
    run.scale.value, run.scale.good = 256.0, 77
    (tmp_path / "a").write_bytes(encode(run, card(run)))
    other, _ = fresh(half=True)
    resume(other, tmp_path / "a", SETTINGS)
    assert (other.scale.value, other.scale.good) == (256.0, 77)


def test_a_checkpoint_changes_nothing_and_touches_no_global_randomness(tmp_path: Path):
    watched, loss = fresh()
    with global_randomness_untouched():
        for _ in watched.steps(loss):
            encode(watched, card(watched))
    plain, loss = fresh()
    go(plain, loss)
    assert everything(watched) == everything(plain)


@pytest.mark.parametrize("mode", fast(["adaptive", "paper"]))
def test_a_checkpoint_after_every_step_goes_on(mode: str, tmp_path: Path):
    same_after(tmp_path, list(range(28, 36)), mode)


def test_what_parameters_share_is_written_for_each(tmp_path: Path):
    """As the table of values of an 8-bit optimizer."""
    run, loss = fresh()
    go(run, loss, 5)
    table = torch.linspace(-1, 1, 256)
    for memory in list(run.optimizer.state.values()):
        memory |= {"table": table, "kind": torch.arange(4, dtype=torch.uint8), "count": 5}
    (tmp_path / "a").write_bytes(encode(run, card(run)))
    again, _ = fresh()
    resume(again, tmp_path / "a", SETTINGS)
    assert all(torch.equal(m["table"], table) for m in again.optimizer.state.values())
    assert encode(again, card(again)) == encode(run, card(run))


def test_a_layer_that_was_given_up_is_kept_so(tmp_path: Path):
    run, loss = fresh()
    go(run, loss, 5)
    with torch.no_grad():
        run.adapters.rate_parameter[1] = 9.0
    run.adapters.follow_rates(run.optimizer)
    assert run.adapters.ranks["l1"] == run.adapters.components["l1"].capacity == 0
    (tmp_path / "a").write_bytes(encode(run, card(run)))
    again, loss_again = fresh()
    resume(again, tmp_path / "a", SETTINGS)
    go(run, loss, 20)
    go(again, loss_again, 20)
    assert again.losses == run.losses and everything(again) == everything(run)


def test_a_step_that_fails_in_the_middle_leaves_the_step_before(tmp_path: Path):
    """Out of memory in the forward pass, after the batch was drawn."""
    run, loss = fresh()
    go(run, loss, 10)
    before = encode(run, card(run))

    def fail(generator: torch.Generator):
        loss(generator)
        raise MemoryError

    with pytest.raises(MemoryError):
        go(run, fail, 1)
    assert encode(run, card(run)) == before


def test_inside_an_update_there_is_no_checkpoint(monkeypatch):
    run, loss = fresh()

    def fail() -> None:
        raise MemoryError

    monkeypatch.setattr(run.optimizer.members[0], "step", fail)
    with pytest.raises(MemoryError):
        go(run, loss, 1)
    with pytest.raises(ValueError, match="between two steps"):
        encode(run, card(run))


def test_a_diverged_run_goes_on_with_other_pictures(tmp_path: Path):
    """The checkpoint of its end holds only finite values, and gives it all its patience again."""
    run, loss = fresh()
    go(run, loss, 10)
    with pytest.raises(TrainingDiverged, match=rf"step {10 + PATIENCE}\)"):
        go(run, lambda generator: loss(generator) * torch.nan)
    (tmp_path / "a").write_bytes(encode(run, card(run)))
    again, loss = fresh()
    resume(again, tmp_path / "a", SETTINGS)
    assert len(again.losses) == 10 + PATIENCE - 1 and again.bad_steps == 0
    go(again, loss)
    assert len(again.losses) == STEPS
    assert all(t.isfinite().all() for pair in again.adapters.folded().values() for t in pair)


@pytest.fixture(scope="module")
def good() -> bytes:
    run, loss = fresh()
    go(run, loss, 8)
    return encode(run, card(run))


def test_the_card_is_read_from_the_header_alone(good: bytes, tmp_path: Path):
    path = tmp_path / "a.safetensors"
    start = 8 + int.from_bytes(good[:8], "little")
    path.write_bytes(good[:start] + bytes(len(good) - start))
    found = read_card(path)
    assert (found.run, found.order, found.step, found.settings) == ("abc", 1, 8, SETTINGS)
    assert found.layers == [["l0", 16, 16], ["l1", 16, 16], ["l2", 16, 16]]


def refused(data: bytes) -> str:
    """The one sentence."""
    with TemporaryDirectory() as folder, pytest.raises(ValueError) as caught:
        path = Path(folder, "step-000008.safetensors")
        path.write_bytes(data)
        decode(path)
    message = str(caught.value)
    assert message.startswith("step-000008.safetensors") and message.endswith(".")
    assert "\n" not in message
    return message


@settings(max_examples=400)
@given(st.data())
def test_every_flipped_bit_is_found(good: bytes, data):
    header = 8 + int.from_bytes(good[:8], "little")
    places = st.integers(0, header - 1) | st.integers(0, len(good) - 1)
    place, bit = data.draw(places), data.draw(st.integers(0, 7))
    damaged = bytearray(good)
    damaged[place] ^= 1 << bit
    refused(bytes(damaged))


@settings(max_examples=150)
@given(st.data())
def test_cut_and_foreign_bytes_are_found(good: bytes, data):
    cut = st.integers(0, len(good) - 1).map(lambda end: good[:end])
    longer = st.binary(min_size=1, max_size=40).map(lambda more: good + more)
    refused(data.draw(cut | longer | st.binary(max_size=200)))


def test_an_adapter_is_no_checkpoint(tmp_path: Path):
    run, _ = fresh()
    run.adapters.components["l0"].lora_up.data[:] = 1
    lora2.save(tmp_path / "a.safetensors", run.adapters)
    assert "is no checkpoint" in refused((tmp_path / "a.safetensors").read_bytes())


def test_another_version_is_named(monkeypatch):
    run, _ = fresh()
    monkeypatch.setattr(checkpoint, "VERSION", "2")
    data = encode(run, card(run))
    monkeypatch.undo()
    assert "version '2', but this LoRA2 reads version 1" in refused(data)


@pytest.mark.parametrize(
    ("here", "sentence"),
    [
        ({"steps": 400}, "another run: steps 60 there, 400 here. Set what"),
        ({"steps": 1, "mode": "paper"}, "steps 60 there, 1 here; mode adaptive there, paper here"),
        ({"colour": "red"}, "colour none there, red here"),
        ({str(i): i for i in range(9)}, "; and 5 more. Set"),
    ],
)
def test_settings_that_differ_are_named(good: bytes, here: dict, sentence: str, tmp_path: Path):
    (tmp_path / "a").write_bytes(good)
    run, _ = fresh()
    with pytest.raises(ValueError) as caught:
        resume(run, tmp_path / "a", SETTINGS | here)
    assert sentence in str(caught.value)


def test_another_model_is_named(good: bytes, tmp_path: Path):
    (tmp_path / "a").write_bytes(good)
    run, _ = fresh(width=24)
    with pytest.raises(ValueError, match=r"layer l0 of shape \[16, 16\].* l0 of \[24, 24\] here"):
        resume(run, tmp_path / "a", SETTINGS)
    model = Planted([1], width=16)
    run = Run(lora2.attach(model, "l", lora2.RankSettings(target_rank=4, max_rank=16)))
    with pytest.raises(ValueError, match="it has 3 trained layers, and there are 1 here"):
        resume(run, tmp_path / "a", SETTINGS)


def test_a_state_of_another_kind_of_run_is_refused(good: bytes, tmp_path: Path):
    """What the card does not say: a file with a right hash and a wrong state."""
    (tmp_path / "a").write_bytes(good)
    run, _ = fresh("fixed")
    with pytest.raises(ValueError, match="a can't be continued: "):
        resume(run, tmp_path / "a", SETTINGS)


@pytest.mark.parametrize(
    ("there", "here", "pointed"),
    [(60, 61, True), (60, 60, False), (60, 59, False), (None, 61, False), ("60", 61, False)],
)
def test_more_steps_than_the_run_had_point_to_start_options(there, here, pointed: bool):
    said = checkpoint.longer({"steps": there}, {"steps": here})
    assert ("Start Options" in said) is pointed and bool(said) is pointed
