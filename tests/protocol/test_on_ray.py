"""The sweep on Ray: a killed worker costs its own trial alone, and the rest goes on."""

import pytest

from tests.protocol.beside_ray import printed


@pytest.mark.slow
def test_a_killed_worker_loses_no_finished_trial():
    told = printed("tests.protocol.scale", "--short", package="ray", seconds=300)
    assert "8 of 8 trials are in the table, begun twice: only trial" in told
    assert "50 empty trials" in told
