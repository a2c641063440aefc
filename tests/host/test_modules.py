"""The order of sys.path keeps the host's modules and ours apart."""

import importlib
from pathlib import Path

import pytest

import lora2_core
from tests.hosting.inprocess import ALIAS, REPOSITORY


def test_nodes_and_utils_are_the_hosts(host: Path):
    for name in ("nodes", "utils", "server"):
        spec = importlib.util.find_spec(name)
        assert Path(spec.origin).is_relative_to(host), name


def test_tests_are_ours():
    import tests

    assert Path(tests.__file__).is_relative_to(REPOSITORY)


@pytest.mark.parametrize("name", ["", ".ranks.rank"])
def test_the_packs_core_is_the_same_module(name: str):
    ours = importlib.import_module(f"lora2_core{name}")
    assert importlib.import_module(f"{ALIAS}.lora2_core{name}") is ours
    assert ours.__spec__.name == f"lora2_core{name}"
    assert lora2_core is importlib.import_module("lora2_core")


def test_host_writes_outside_its_checkout(host: Path):
    import folder_paths

    assert not Path(folder_paths.get_output_directory()).is_relative_to(host)
