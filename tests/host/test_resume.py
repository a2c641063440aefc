"""A run on the real ModelPatcher is taken up again exactly, however it ended."""

import subprocess
import sys

import folder_paths
import pytest
import torch

from lora2_core.host.training import setup
from lora2_core.host.training.checkpoint_files import checkpoint_list, folder_of
from lora2_core.host.training.checkpoint_keeping import LATEST
from tests.host.kept import bytes_of, keep, out_of_memory, stop_at
from tests.host.killed import KEEP
from tests.hosting.inprocess import REPOSITORY
from tests.tiers import fast


@pytest.mark.parametrize("mode", fast(["adaptive", "paper", "fixed"]))
def test_an_interrupted_run_goes_on_to_the_same_bytes(train, uninterrupted, name, mode: str):
    whole = uninterrupted(mode=mode)
    part = train(stop_at(7), mode=mode, **keep(name))
    assert part.checkpoint == f"{name}/step-000007.safetensors"
    mine = [listed for listed in checkpoint_list() if listed.startswith(f"{name}/")]
    assert mine == [f"{name}/step-000005.safetensors", part.checkpoint]
    rest = train(mode=mode, **keep(name, resume=part.checkpoint))
    assert rest.resumed_after == 7 and rest.stopped_by is None
    assert bytes_of(rest) == bytes_of(whole)
    again = train(mode=mode, **keep(name, resume=LATEST))  # from step 10
    assert again.resumed_after == 10
    assert bytes_of(again) == bytes_of(whole)


def test_checkpoints_change_nothing_and_the_mean_of_the_weights_goes_on(train, uninterrupted, name):
    whole = uninterrupted(ema=0.9)
    assert bytes_of(train(ema=0.9, **keep(name))) == bytes_of(whole)
    part = train(stop_at(8), ema=0.9, **keep(name))
    assert bytes_of(train(ema=0.9, **keep(name, 0, part.checkpoint))) == bytes_of(whole)


def test_latest_of_nothing_begins_anew_and_of_a_whole_run_gives_its_end(train, name):
    first = train(**keep(name, 6, LATEST))
    assert first.resumed_after == 0 and first.checkpoint == f"{name}/step-000012.safetensors"
    again = train(**keep(name, 6, LATEST))
    assert again.resumed_after == 12 and bytes_of(again) == bytes_of(first)


def test_out_of_memory_keeps_the_last_step(train, uninterrupted, name, monkeypatch):
    whole = uninterrupted()
    with monkeypatch.context() as patch:
        out_of_memory(8, patch)
        part = train(checkpointing="off", **keep(name))
    assert isinstance(part.stopped_by, torch.OutOfMemoryError)
    assert part.checkpoint == f"{name}/step-000007.safetensors"
    assert bytes_of(train(**keep(name, resume=part.checkpoint))) == bytes_of(whole)


def test_out_of_memory_in_the_first_step_after_the_checkpoint_turns_checkpointing_on(
    train, uninterrupted, name, monkeypatch
):
    """As it does in any step; what is computed again may come out a bit other."""
    whole, part = uninterrupted(), train(stop_at(7), **keep(name))
    out_of_memory(1, monkeypatch)
    rest = train(**keep(name, resume=part.checkpoint))
    assert rest.resumed_after == 7 and rest.stopped_by is None
    assert rest.lora.origin.run.settings["checkpointing"] is True
    assert rest.losses == pytest.approx(whole.losses, rel=1e-4)


def test_a_diverged_run_keeps_its_last_good_step(train, name, monkeypatch):
    make = setup.make_loss

    def diverging(*args):
        loss_fn, calls = make(*args), []
        return lambda generator: (
            loss_fn(generator) * (torch.nan if calls.append(1) or len(calls) > 3 else 1.0)
        )

    with monkeypatch.context() as patch:
        patch.setattr(setup, "make_loss", diverging)
        part = train(**keep(name))
    assert "not a finite number" in str(part.stopped_by)
    rest = train(**keep(name, resume=part.checkpoint))
    assert rest.stopped_by is None and len(rest.losses) == 12
    assert all(layer.up.isfinite().all() for layer in rest.lora.layers.values())


@pytest.mark.slow
def test_a_killed_process_loses_one_step_at_most(train, uninterrupted, tmp_path, monkeypatch):
    command = [sys.executable, "-m", "tests.host.killed", str(tmp_path)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        said = next((line for line in process.stdout if line == "step 7\n"), None)
        process.kill()
    assert said is not None and process.returncode < 0
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    rest = train(**KEEP, resume=LATEST)
    assert 7 <= rest.resumed_after < 12 and rest.stopped_by is None
    assert not list(folder_of("killed").glob(".*"))
    assert bytes_of(rest) == bytes_of(uninterrupted())
