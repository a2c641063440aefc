"""Shares of a batch, and two processes against one on the playground."""

import pytest

from lora2_core.training.parallel import Processes
from tests.parallel.__main__ import compare


def test_a_process_alone_trains_alone():
    assert Processes.joined() is None


def test_shares_are_equal_and_cover_the_batch():
    parts = [Processes(rank, 3).share(12) for rank in range(3)]
    assert [i for part in parts for i in range(12)[part]] == list(range(12))
    with pytest.raises(ValueError, match="batch_size is 5, which 2 processes"):
        Processes(0, 2).share(5)


def test_two_processes_are_as_one(host):
    found = compare("adaptive", 12)
    assert found.holds, found
