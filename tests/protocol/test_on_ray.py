"""The sweep on Ray: a killed worker costs its own trial alone, and the rest goes on."""

import pytest

from tests.protocol.beside_ray import printed


@pytest.mark.slow
def test_a_killed_worker_loses_no_finished_trial():
    told = printed("tests.protocol.scale", "--short", package="ray", seconds=300)
    assert "8 of 8 trials are in the table, begun twice: only trial" in told
    assert "50 empty trials" in told


@pytest.mark.slow
def test_a_job_goes_on_after_a_killed_worker_and_leaves_finished_adapters_alone():
    told = printed("tests.protocol.train_on_ray", package="ray", seconds=500)
    assert "a worker is killed" in told
    assert "| owl |" in told and "| fox |" in told
    assert "steps [60, 60], owl left alone: True, checkpoints 0" in told
