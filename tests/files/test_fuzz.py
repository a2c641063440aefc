"""A short form of `nox -s fuzz`: adapter files without a host."""

from pathlib import Path

import pytest

import lora2_core as lora2
from tests.reliability.adapters import malformed_in_processes, missed_flips, read_malformed
from tests.reliability.good import good_files
from tests.reliability.malformed import CLASSES
from tests.tiers import fast


@pytest.mark.parametrize("count", fast([1, 8]))
def test_malformed_adapters_of_every_class_are_refused_in_a_line(count: int, tmp_path: Path):
    assert len(CLASSES) >= 30
    faults, _ = read_malformed(10**6, count * len(CLASSES), tmp_path)
    assert not faults


@pytest.mark.slow
def test_a_process_of_the_fuzzer_is_seen_to_end():
    assert not malformed_in_processes(len(CLASSES), 77)[0]


def test_the_fuzzer_sees_what_it_looks_for(tmp_path: Path, monkeypatch):
    """These tests prove nothing unless a loader that takes anything is found out."""
    monkeypatch.setattr(lora2, "load", lambda path: None)
    faults, _ = read_malformed(0, len(CLASSES), tmp_path)
    assert len(faults) == len(CLASSES) and all("silent accept" in fault for fault in faults)
    for error, word in ((RuntimeError("x"), "raw"), (ValueError("no\nline."), "no line")):
        monkeypatch.setattr(lora2, "load", lambda path, error=error: (_ for _ in ()).throw(error))
        assert all(word in fault for fault in read_malformed(0, 3, tmp_path)[0])


def test_good_files_are_read(tmp_path: Path):
    files = [(what, path, layers) for what, path, layers in good_files(tmp_path)]
    assert len(files) >= 200
    for what, path, layers in files:
        assert len(lora2.load(path).layers) == layers, what


@pytest.mark.parametrize("count", fast([100, 500]))
def test_flipped_bits_are_detected(count: int, tmp_path: Path):
    assert missed_flips(count, 5, tmp_path) == 0


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_differs_from_seed_to_seed_or_has_one_form(name: str):
    from random import Random

    made = {CLASSES[name](Random(seed))[0] for seed in range(12)}
    assert len(made) > 1
