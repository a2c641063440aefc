"""A write that fails leaves the old file, and nothing else."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import lora2_core as lora2
from lora2_core.atomic import OLD, sweep, write_atomic
from tests.toys import random_lora


def test_write_atomic_makes_the_folder_and_replaces(tmp_path: Path):
    path = tmp_path / "new" / "folder" / "file.bin"
    for data in (b"first", b"second", b""):
        write_atomic(path, data)
        assert path.read_bytes() == data
    assert [p.name for p in path.parent.iterdir()] == ["file.bin"]


@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_a_failed_write_leaves_the_old_file_and_no_other(call: str, tmp_path: Path, monkeypatch):
    path = tmp_path / "file.bin"
    write_atomic(path, b"old")

    def fail(*_args: object) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(OSError, match="No space left"):
            write_atomic(path, b"new")
        with pytest.raises(OSError, match="No space left"):
            lora2.save(tmp_path / "other.safetensors", random_lora())
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.bin"]


def test_bytes_that_read_back_differently_are_not_kept(tmp_path: Path, monkeypatch):
    path = tmp_path / "file.bin"
    write_atomic(path, b"old")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", lambda _path: b"rot")
        with pytest.raises(OSError, match="file.bin read back differently"):
            write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.bin"]


def test_what_a_crash_left_behind_does_not_stop_the_next_write(tmp_path: Path):
    """In a container each start may have the process id of the one that died."""
    (tmp_path / f".file.bin.{os.getpid()}.tmp").write_bytes(b"half a fi")
    write_atomic(tmp_path / "file.bin", b"whole")
    assert [p.name for p in tmp_path.iterdir()] == ["file.bin"]
    assert (tmp_path / "file.bin").read_bytes() == b"whole"


def test_what_dead_processes_left_is_swept_and_nothing_else(tmp_path: Path):
    (tmp_path / ".a.safetensors.77.tmp").write_bytes(b"half")
    kept = [".hidden.tmp", "a.safetensors.77.tmp", "a.safetensors", ".a.safetensors.78.tmp"]
    for name in kept:
        (tmp_path / name).write_bytes(b"")
    hold = "import sys, fcntl; f = open(sys.argv[1], 'r+b'); fcntl.flock(f, 2); print(flush=True); "
    command = [sys.executable, "-c", f"{hold}sys.stdin.read()", str(tmp_path / kept[-1])]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as writer:
        writer.stdout.readline()
        sweep(tmp_path)
        assert sorted(p.name for p in tmp_path.iterdir()) == sorted(kept)
        past = time.time() - OLD - 1
        os.utime(tmp_path / kept[0], (past, past))
        writer.kill()
    sweep(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(kept[:-1])
    sweep(tmp_path / "missing")


def test_what_another_thread_writes_is_not_swept(tmp_path: Path, monkeypatch):
    """A prompt is checked, and its folder swept, while another one saves there."""
    replace = os.replace

    def swept(source: Path, target: Path) -> None:
        sweep(tmp_path)
        replace(source, target)

    monkeypatch.setattr(os, "replace", swept)
    write_atomic(tmp_path / "file.bin", b"new")
    assert (tmp_path / "file.bin").read_bytes() == b"new"
