"""A short form of `nox -s chaos`: killed processes and failing disks."""

import errno
import subprocess
import sys

import pytest

from tests.hosting.inprocess import REPOSITORY
from tests.reliability import disk
from tests.reliability.disk import failed_checkpoints, failed_saves
from tests.reliability.endings import payload_hashes, resumed_otherwise


@pytest.mark.slow
def test_killed_saves_and_trainings_lose_nothing():
    """In a process of its own, which can be forked."""
    command = [sys.executable, "-m", "tests.hosting.inprocess", "tests.reliability.chaos"]
    done = subprocess.run(
        [*command, "kills", "6"], cwd=REPOSITORY, capture_output=True, text=True, timeout=300
    )
    assert ": 0 corrupt or lost files" in done.stdout, done.stdout + done.stderr


def test_a_save_that_fails_at_any_call_leaves_the_old_file(tmp_path):
    cases, wrong = failed_saves(tmp_path)
    assert cases > 28 and not wrong


@pytest.mark.slow
def test_a_training_whose_disk_is_full_goes_on(trainings, monkeypatch):
    monkeypatch.setattr(disk, "ERRORS", (errno.ENOSPC,))
    assert failed_checkpoints(trainings, 7) == (6, [])


@pytest.mark.slow
def test_runs_resumed_three_times_are_bitwise_the_uninterrupted_one(trainings):
    assert resumed_otherwise(trainings, 2, 7) == []


def test_one_seed_gives_one_payload(trainings):
    assert len(payload_hashes(trainings, 2)) == 1
