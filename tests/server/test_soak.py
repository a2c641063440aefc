"""A short form of `nox -s soak`: interrupts, and trainings beside a second client."""

import pytest

from tests.hosting.server import ComfyServer
from tests.reliability.soak import interrupted, soaked

pytestmark = pytest.mark.slow


def test_an_interrupt_keeps_a_verified_adapter_and_the_next_prompt_succeeds(server: ComfyServer):
    slowest, wrong = interrupted(server, 2, 7)
    assert not wrong and slowest < 20  # a machine under load: nox -s soak holds it to 2 s


def test_trainings_beside_a_second_client_all_succeed(server: ComfyServer):
    measured, wrong = soaked(server, 6, 2, 7)
    assert not [fault for fault in wrong if "MiB" not in fault], measured
