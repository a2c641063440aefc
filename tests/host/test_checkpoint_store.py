"""Where checkpoints lie: the last ones stay, a failing disk harms nothing, names stay inside."""

import logging

import pytest

from lora2_core.host.training import checkpoint_files
from lora2_core.host.training.checkpoint_files import (
    checkpoint_list,
    checkpoints_folder,
    file_of,
    folder_of,
)
from lora2_core.host.training.checkpoint_keeping import LATEST, KeepSettings
from tests.host.kept import keep, stop_at


def test_the_last_ones_of_a_run_stay_and_all_of_other_runs(train, name):
    other = train(stop_at(2), seed=4, **keep(name, 1))
    train(**keep(name, 1, keep_last=3))
    files = {path.name: card for path, card in checkpoint_files.cards_in(folder_of(name)).items()}
    assert [card.step for card in files.values()] == [1, 2, 10, 11, 12]
    assert len({card.run for card in files.values()}) == 2
    train(stop_at(2), seed=5, **keep(name, 2))  # the name of a file of another run is taken
    assert f"{name}/step-000002_2.safetensors" in checkpoint_list()
    assert train(seed=4, **keep(name, 0, other.checkpoint)).resumed_after == 2


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError("No space left on device"), "No space left on device"),
        (MemoryError(), "too little memory"),
    ],
)
def test_a_failing_disk_does_not_end_the_run_and_nothing_is_removed(
    train, name, monkeypatch, caplog, error, reason
):
    part = train(stop_at(6), **keep(name, 3))
    before = {p: p.read_bytes() for p in folder_of(name).iterdir()}

    def full(*_):
        raise error

    monkeypatch.setattr(checkpoint_files, "write_atomic", full)
    with caplog.at_level(logging.ERROR):
        rest = train(**keep(name, 1, part.checkpoint, keep_last=1))
    assert rest.stopped_by is None and len(rest.losses) == 12
    assert f"The checkpoint of step 7 is not written: {reason}" in caplog.text
    assert {p: p.read_bytes() for p in folder_of(name).iterdir()} == before


def test_what_a_crash_left_is_swept_and_a_damaged_file_is_passed_over(train, name, caplog):
    part = train(stop_at(6), **keep(name, 3))
    folder = folder_of(name)
    (folder / ".step-000009.safetensors.77.tmp").write_bytes(b"half")
    (folder / "step-000099.safetensors").write_bytes(b"half")
    rest = train(**keep(name, 3, LATEST))
    assert rest.resumed_after == 6
    assert "step-000099.safetensors is no safetensors file" in caplog.text
    assert not list(folder.glob(".*"))
    path = file_of(part.checkpoint.replace("06", "09"))
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="is damaged: its contents don't match its own hash"):
        train(**keep(name, 0, f"{name}/{path.name}"))


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


def test_linked_folders_are_followed_and_linked_files_are_replaced(train, name, tmp_path):
    """By what a run writes: the folder of a name may lie on another disk."""
    root = checkpoints_folder()
    root.mkdir(parents=True, exist_ok=True)
    (tmp_path / "kept").mkdir()
    (tmp_path / "other").write_bytes(b"mine")
    (root / name).symlink_to(tmp_path / "kept")
    (tmp_path / "kept" / "step-000003.safetensors").symlink_to(tmp_path / "other")
    try:
        part = train(stop_at(3), **keep(name, 3))
        assert file_of(part.checkpoint).parent.resolve() == tmp_path / "kept"
        assert (tmp_path / "other").read_bytes() == b"mine"
    finally:
        (root / name).unlink()


def test_a_folder_that_cannot_be_read_does_not_break_the_list(monkeypatch, caplog):
    def forbidden(_folder):
        raise PermissionError("Permission denied")

    checkpoints_folder().joinpath("a").mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr(checkpoint_files, "files_in", forbidden)
    assert checkpoint_list() == [] and "can't be listed: Permission denied" in caplog.text
