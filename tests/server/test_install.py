"""A clone of the repository in the custom_nodes of a clean ComfyUI: loads with the requirements
installed and without, and installing them changes nothing that the host has.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.graphs import quick_start
from tests.hosting.server import NAME, REPOSITORY, ComfyServer, ExecutionError
from tests.server.test_pack import PROMISED

pytestmark = pytest.mark.slow
# A package that is not there: what `import matplotlib` meets before `pip install -r`.
MISSING = 'raise ModuleNotFoundError("No module named \'matplotlib\'", name="matplotlib")\n'


@pytest.fixture(scope="module")
def clean(tmp_path_factory) -> Path:
    """A base folder with a clone under custom_nodes, and nothing else."""
    base = tmp_path_factory.mktemp("clean")
    place = base / "custom_nodes" / NAME
    place.parent.mkdir()
    command = ["git", "clone", "-q", "--depth", "1", f"file://{REPOSITORY}", str(place)]
    subprocess.run(command, check=True)
    return base


def test_requirements_add_only_what_the_host_lacks(clean):
    """In an environment that has the host's packages and matplotlib, nothing is left to do."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-index", "-r"]
    listed = clean / "custom_nodes" / NAME / "requirements.txt"
    done = subprocess.run([*command, str(listed)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Would install" not in done.stdout and "torch" not in listed.read_text().lower()


def test_a_clone_works(clean):
    with ComfyServer(clean, pack=None) as server:
        assert set(server.object_info()) >= PROMISED
        graph = quick_start(steps=2, batch_size=2, target_rank=2, max_rank=4)
        wanted = ("model", "pictures", "dataset", "train", "save", "heatmap", "heatmap picture")
        entry = server.run({name: graph[name] for name in wanted})
        assert server.files(entry, "heatmap picture")[0].is_file()


def test_without_the_requirements_it_trains_and_says_what_the_picture_needs(
    clean, tmp_path, monkeypatch
):
    (tmp_path / "matplotlib").mkdir()
    (tmp_path / "matplotlib" / "__init__.py").write_text(MISSING)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with ComfyServer(clean, pack=None) as server:
        assert set(server.object_info()) >= PROMISED
        graph = quick_start(steps=2, batch_size=2, target_rank=2, max_rank=4)
        trained = ("model", "pictures", "dataset", "train", "save")
        entry = server.run({name: graph[name] for name in trained})
        assert entry["outputs"]["save"]["text"]
        drawn = {name: graph[name] for name in (*trained, "heatmap", "heatmap picture")}
        with pytest.raises(ExecutionError, match="matplotlib"):
            server.run(drawn)
