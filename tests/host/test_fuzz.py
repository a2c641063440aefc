"""A short form of `nox -s fuzz`: loaders, names and prompts in the host."""

import folder_paths
import pytest
import torch

from tests.host.flow_models import build
from tests.reliability.doors import figure_14
from tests.reliability.fuzz import sockets
from tests.reliability.hostile import Watch
from tests.reliability.loaders import differences, misfit_faults, unmatched_faults
from tests.reliability.prompts import Prompts, try_prompts


def test_what_matches_nothing_is_an_error_and_what_matches_in_part_is_counted(playground):
    assert unmatched_faults(playground.model, 40, 1) == []


def test_what_is_for_a_weight_or_slice_of_another_size_is_refused_with_both(playground):
    assert misfit_faults(playground.model, 60, 1) == misfit_faults(build("Z-Image"), 60, 1) == []


def test_files_load_as_in_the_hosts_own_loader():
    most = differences(60, 1)
    assert most[torch.float32] <= 1e-6 and most[torch.bfloat16] <= 1


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Folders of the test's own, since links that lead out are laid into them."""
    for name in ("input", "output"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(folder_paths, f"{name}_directory", str(tmp_path / name))
    monkeypatch.setattr(folder_paths, "get_folder_paths", lambda kind: [str(tmp_path / kind)])


def test_hostile_names_lead_nowhere(nodes, folders):
    folder_paths.get_filename_list("loras")  # the host lists it again where a test has written
    figure = figure_14(nodes, 600, 1)
    assert ": 0 reads or writes outside, or raw exceptions" in figure.measured


def test_the_watch_sees_what_is_touched_outside(tmp_path):
    (tmp_path / "in").mkdir()
    watch = Watch([tmp_path / "in"])
    with watch.watching() as outside:
        (tmp_path / "in" / "a").write_bytes(b"")
        assert not outside
        (tmp_path / "b").write_bytes(b"")
        assert len(outside) == 1
        (tmp_path / "in" / "a").rename(tmp_path / "c")
        list((tmp_path / "in" / "..").iterdir())
        assert {line.split()[0] for line in outside} == {"open", "os.rename", "os.listdir"}


def test_fuzzed_prompts_end_in_one_sentence_before_training(nodes):
    _, values = sockets()
    assert not try_prompts(Prompts(nodes, values, 1), 250)
