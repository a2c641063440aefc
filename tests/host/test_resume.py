"""A run on the real ModelPatcher is taken up again exactly, or refused in one sentence."""

import asyncio
import logging
import subprocess
import sys

import comfy.model_management
import comfyui_lora2
import folder_paths
import pytest
import torch

from lora2_core.host import checkpoints
from lora2_core.host import run as host_run
from lora2_core.host.checkpoints import checkpoint_list, checkpoints_folder, file_of, folder_of
from lora2_core.host.keeping import LATEST, KeepSettings
from lora2_core.host.run import HostRun, Outcome, train_on
from tests.host.killed import FIELDS, KEEP
from tests.hosting.inprocess import REPOSITORY


def quiet(step) -> None:
    """Nobody listens to the steps."""


def stop_at(last: int, error: type = comfy.model_management.InterruptProcessingException):
    """An interrupt after a step."""

    def on_step(step) -> None:
        if step.index == last:
            raise error

    return on_step


@pytest.fixture
def train(playground):
    """A training with some options."""

    def go(on_step=quiet, **options) -> Outcome:
        data = playground.model, playground.latents, playground.positive
        return train_on(*data, HostRun.of(FIELDS | options), on_step)

    return go


@pytest.fixture
def name(request) -> str:
    """A folder of checkpoints of the test's own."""
    return "".join(c for c in request.node.name if c.isalnum())


def keep(name: str, every: int = 5, resume: str = "none", keep_last: int = 2) -> dict:
    return {
        "checkpoint_every": every, "checkpoint_name": name, "keep_last": keep_last,
        "resume": resume,
    }  # fmt: skip


def bytes_of(outcome: Outcome) -> tuple:
    """All that two trainings could differ in but the time."""
    tensors = [t.numpy().tobytes() for layer in outcome.lora.layers.values()
               for t in (layer.up, layer.down)]  # fmt: skip
    return tensors, outcome.losses, outcome.lora.info["history"], outcome.lora.info["learned_ranks"]


@pytest.mark.parametrize("mode", ["adaptive", "paper", "fixed"])
def test_an_interrupted_run_goes_on_to_the_same_bytes(train, name, mode: str):
    whole = train(mode=mode)
    part = train(stop_at(7), mode=mode, **keep(name))
    assert part.checkpoint == f"{name}/step-000007.safetensors"
    mine = [listed for listed in checkpoint_list() if listed.startswith(f"{name}/")]
    assert mine == [f"{name}/step-000005.safetensors", part.checkpoint]
    rest = train(mode=mode, **keep(name, resume=part.checkpoint))
    assert rest.first == 7 and rest.stopped is None
    assert bytes_of(rest) == bytes_of(whole)
    again = train(mode=mode, **keep(name, resume=LATEST))  # from step 10
    assert again.first == 10
    assert bytes_of(again) == bytes_of(whole)


def test_checkpoints_change_nothing_and_the_mean_of_the_weights_goes_on(train, name):
    whole = train(ema=0.9)
    assert bytes_of(train(ema=0.9, **keep(name))) == bytes_of(whole)
    part = train(stop_at(8), ema=0.9, **keep(name))
    assert bytes_of(train(ema=0.9, **keep(name, 0, part.checkpoint))) == bytes_of(whole)


def test_latest_of_nothing_begins_anew_and_of_a_whole_run_gives_its_end(train, name):
    first = train(**keep(name, 6, LATEST))
    assert first.first == 0 and first.checkpoint == f"{name}/step-000012.safetensors"
    again = train(**keep(name, 6, LATEST))
    assert again.first == 12 and bytes_of(again) == bytes_of(first)


def out_of_memory(count: int, monkeypatch) -> None:
    """At the count-th forward pass."""
    make = host_run.make_loss

    def failing(*args):
        loss_fn, calls = make(*args), []

        def loss(generator):
            calls.append(1)
            if len(calls) == count:
                loss_fn(generator)
                raise torch.OutOfMemoryError("out of memory")
            return loss_fn(generator)

        return loss

    monkeypatch.setattr(host_run, "make_loss", failing)


def test_out_of_memory_keeps_the_last_step(train, name, monkeypatch):
    whole = train()
    with monkeypatch.context() as patch:
        out_of_memory(8, patch)
        part = train(**keep(name))
    assert isinstance(part.stopped, torch.OutOfMemoryError)
    assert part.checkpoint == f"{name}/step-000007.safetensors"
    assert bytes_of(train(**keep(name, resume=part.checkpoint))) == bytes_of(whole)


def test_out_of_memory_in_the_first_step_after_the_checkpoint_turns_checkpointing_on(
    train, name, monkeypatch
):
    """As it does in the first step of a run; what is computed again may come out a bit other."""
    whole, part = train(), train(stop_at(7), **keep(name))
    out_of_memory(1, monkeypatch)
    modes, attempt = [], host_run.attempt

    def seen(*args):
        modes.append(args[3].checkpointing)
        if len(modes) == 2:
            monkeypatch.undo()
        return attempt(*args)

    monkeypatch.setattr(host_run, "attempt", seen)
    rest = train(**keep(name, resume=part.checkpoint))
    assert modes == ["off", "on"] and rest.first == 7 and rest.stopped is None
    assert rest.losses == pytest.approx(whole.losses, rel=1e-4)


def test_a_diverged_run_keeps_its_last_good_step(train, name, monkeypatch):
    make = host_run.make_loss

    def diverging(*args):
        loss_fn, calls = make(*args), []
        return lambda generator: (
            loss_fn(generator) * (torch.nan if calls.append(1) or len(calls) > 3 else 1.0)
        )

    with monkeypatch.context() as patch:
        patch.setattr(host_run, "make_loss", diverging)
        part = train(**keep(name))
    assert "not a finite number" in str(part.stopped)
    rest = train(**keep(name, resume=part.checkpoint))
    assert rest.stopped is None and len(rest.losses) == 12
    assert all(layer.up.isfinite().all() for layer in rest.lora.layers.values())


def test_the_last_ones_of_a_run_stay_and_all_of_other_runs(train, name):
    other = train(stop_at(2), seed=4, **keep(name, 1))
    train(**keep(name, 1, keep_last=3))
    files = {path.name: card for path, card in checkpoints.cards_in(folder_of(name)).items()}
    assert [card.step for card in files.values()] == [1, 2, 10, 11, 12]
    assert len({card.run for card in files.values()}) == 2
    train(stop_at(2), seed=5, **keep(name, 2))  # the name of a file of another run is taken
    assert f"{name}/step-000002_2.safetensors" in checkpoint_list()
    assert train(seed=4, **keep(name, 0, other.checkpoint)).first == 2


def test_a_failing_disk_does_not_end_the_run_and_nothing_is_removed(
    train, name, monkeypatch, caplog
):
    part = train(stop_at(6), **keep(name, 3))
    before = {p: p.read_bytes() for p in folder_of(name).iterdir()}

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpoints, "write_atomic", full)
    with caplog.at_level(logging.ERROR):
        rest = train(**keep(name, 1, part.checkpoint, keep_last=1))
    assert rest.stopped is None and len(rest.losses) == 12
    assert "The checkpoint of step 7 is not written: No space left on device" in caplog.text
    assert {p: p.read_bytes() for p in folder_of(name).iterdir()} == before


def test_what_a_crash_left_is_swept_and_a_damaged_file_is_passed_over(train, name, caplog):
    part = train(stop_at(6), **keep(name, 3))
    folder = folder_of(name)
    (folder / ".step-000009.safetensors.77.tmp").write_bytes(b"half")
    (folder / "step-000099.safetensors").write_bytes(b"half")
    rest = train(**keep(name, 3, LATEST))
    assert rest.first == 6
    assert "step-000099.safetensors is no safetensors file" in caplog.text
    assert not list(folder.glob(".*"))
    path = file_of(part.checkpoint.replace("06", "09"))
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="is damaged: its contents don't match its own hash"):
        train(**keep(name, 0, f"{name}/{path.name}"))


def test_a_killed_process_loses_one_step_at_most(train, tmp_path, monkeypatch):
    command = [sys.executable, "-m", "tests.host.killed", str(tmp_path)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        said = next((line for line in process.stdout if line == "step 7\n"), None)
        process.kill()
    assert said is not None and process.returncode < 0
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    rest = train(**KEEP, resume=LATEST)
    assert 7 <= rest.first < 12 and rest.stopped is None
    assert not list(folder_of("killed").glob(".*"))
    assert bytes_of(rest) == bytes_of(train())


@pytest.fixture(scope="module")
def kept(playground) -> str:
    """A checkpoint to be refused."""
    data = playground.model, playground.latents, playground.positive
    with torch.inference_mode():
        return train_on(*data, HostRun.of(FIELDS | keep("kept")), stop_at(2)).checkpoint


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"steps": 400}, "belongs to another run: steps 12 there, 400 here. Set what differs"),
        ({"learning_rate": 0.1, "seed": 9}, "learning_rate 0.01 there, 0.1 here; seed 3 there, 9"),
        ({"mode": "fixed"}, "mode adaptive there, fixed here"),
        ({"targets": "attn1"}, "belongs to another model: it has a layer diffusion_model"),
        ({"targets": "attn2.to_q"}, r"it has 28 trained layers, and there are 7 here"),
        ({"optimizer": "sgd"}, "optimizer adamw there, sgd here"),
        ({"huber": 0.1}, "huber 0.0 there, 0.1 here"),
        ({"batch_size": 1}, "batch_size 2 there, 1 here"),
    ],
)
def test_another_run_is_refused_before_any_step(train, kept, change: dict, sentence: str):
    with pytest.raises(ValueError, match=sentence) as caught:
        train(stop_at(3, AssertionError), **keep("kept", 0, kept), **change)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


def test_other_pictures_are_refused_and_what_encoding_again_changes_is_not(playground, kept):
    run = HostRun.of(FIELDS | keep("kept", 0, kept))
    latents, captions = list(playground.latents), list(playground.positive)
    with pytest.raises(ValueError, match="pictures 4 there, 3 here"):
        train_on(playground.model, latents[:3], captions[:3], run, quiet)
    with pytest.raises(ValueError, match="picture 1 or its caption is not the same"):
        train_on(playground.model, latents[::-1], captions, run, quiet)
    with pytest.raises(ValueError, match="picture 2 or its caption is not the same"):
        other = [captions[0], [[-captions[1][0][0], captions[1][0][1]]], *captions[2:]]
        train_on(playground.model, latents, other, run, quiet)
    near = [{"samples": latent["samples"] * 1.001} for latent in latents]
    assert train_on(playground.model, near, captions, run, quiet).first == 2


def test_another_base_model_is_refused(playground, kept):
    model = playground.model.clone()
    weight = next(p for n, p in model.model.named_parameters() if n.endswith("to_q.weight"))
    run = HostRun.of(FIELDS | keep("kept", 0, kept))
    before = weight.clone()
    weight.mul_(2)
    try:
        with pytest.raises(ValueError, match="base model .* there, .* here"):
            train_on(model, playground.latents, playground.positive, run, quiet)
    finally:
        weight.copy_(before)


@pytest.mark.parametrize(
    "bad",
    ["", ".", "..", "../out", "a/b", "a\\b", "/tmp", "C:x", "nul\0", "a ", "a.", ".hidden",
     "x" * 101, "\u202egnp", None, 3],
)  # fmt: skip
def test_names_stay_inside(bad):
    with pytest.raises(ValueError, match="name is "):
        folder_of(bad)
    with pytest.raises(ValueError, match="name is "):
        KeepSettings(checkpoint_name=bad)


@pytest.mark.parametrize(
    "bad", ["gone/step-000001.safetensors", "../../../secret.safetensors", "/etc/passwd", "a\0b",
            None, 3, "", "kept"],
)  # fmt: skip
def test_only_checkpoints_of_the_list_are_read(bad):
    (checkpoints_folder().parent.parent.parent / "secret.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="There is no checkpoint .*: choose one from the list"):
        file_of(bad)


def test_links_that_lead_out_are_refused(tmp_path):
    root = checkpoints_folder()
    root.mkdir(parents=True, exist_ok=True)
    (root / "link").symlink_to(tmp_path)
    (tmp_path / "a.safetensors").write_bytes(b"x")
    try:
        with pytest.raises(ValueError, match="There is no checkpoint"):
            file_of("link/a.safetensors")
        with pytest.raises(ValueError, match="name is 'link'"):
            folder_of("link")
    finally:
        (root / "link").unlink()


@pytest.fixture(scope="module")
def nodes() -> dict:
    extension = asyncio.run(comfyui_lora2.comfy_entrypoint())
    return {node.define_schema().node_id: node for node in asyncio.run(extension.get_node_list())}


def test_the_defaults_are_what_happens_without_the_node(nodes):
    node = nodes["LoRA2CheckpointOptions"]
    inputs = {f.id: f.default for f in node.define_schema().inputs if f.id != "options"}
    (options,) = node.execute(**inputs).result
    assert HostRun.of({**options, **FIELDS}) == HostRun.of(FIELDS)
    assert not HostRun.of(FIELDS).keep.used


def test_every_field_reaches_its_settings_and_the_list_shows_what_is_there(nodes, kept):
    node = nodes["LoRA2CheckpointOptions"]
    (combo,) = (f for f in node.define_schema().inputs if f.id == "resume")
    assert combo.options[:2] == ["none", LATEST] and kept in combo.options
    (options,) = node.execute(7, 3, "mine", kept, {"targets": "attn2"}).result
    run = HostRun.of({**options, "steps": 4})
    assert run.keep == KeepSettings(7, 3, "mine", kept) and run.targets == "attn2"


@pytest.mark.parametrize(
    ("inputs", "answer"),
    [
        ({"name": "run", "resume": "none"}, True),
        ({"name": None, "resume": None}, True),
        ({"name": "run", "resume": LATEST}, True),
        ({"name": "../x"}, "name is '../x': give one of letters"),
        ({"resume": "run/gone.safetensors"}, "There is no checkpoint 'run/gone.safetensors' in"),
    ],
)
def test_the_form_is_checked_before_anything_runs(nodes, inputs: dict, answer):
    found = nodes["LoRA2CheckpointOptions"].validate_inputs(**inputs)
    assert found is True if answer is True else found.startswith(answer)


def test_the_error_says_how_to_go_on(nodes, playground, monkeypatch, caplog):
    out_of_memory(3, monkeypatch)
    monkeypatch.setattr(nodes["LoRA2Train"], "reporter", lambda steps: quiet)
    fields = {
        "model": [playground.model], "latents": playground.latents,
        "positive": playground.positive, "steps": [5], "batch_size": [1], "learning_rate": [1e-3],
        "mode": ["fixed"], "target_rank": [2], "budget_mb": [0.0], "max_rank": [8], "seed": [0],
    }  # fmt: skip
    with pytest.raises(RuntimeError) as caught:
        nodes["LoRA2Train"].execute(**fields, options=[keep("told", 4)])
    sentence = "To go on from there, choose resume told/step-000002.safetensors in LoRA² Checkpoint"
    assert sentence in str(caught.value) and sentence in caplog.text
    assert "is saved as lora2/interrupted_" in str(caught.value)
