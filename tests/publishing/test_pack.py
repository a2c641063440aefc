"""What the registry gets: its tool accepts the pack, and the zip holds what runs and no more."""

import zipfile
from pathlib import Path

import pytest

from tests.hosting.server import ComfyServer
from tests.publishing.registry import comfy, copied

pytestmark = pytest.mark.slow
TOP = {  # a folder that is new here must be listed, or left out in .comfyignore
    "LICENSE", "README.md", "__init__.py", "example_workflows", "locales", "lora2_core", "nodes",
    "pyproject.toml", "requirements.txt", "web",
}  # fmt: skip
MOST_MB = 14  # of which the Playground's weights are 10.6


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy that was packed: node.zip lies in it."""
    folder = copied(tmp_path_factory.mktemp("registry") / "pack")
    comfy(folder, "node", "pack")
    return folder


@pytest.fixture(scope="module")
def listed(pack: Path) -> set[str]:
    """Every file in the zip."""
    with zipfile.ZipFile(pack / "node.zip") as packed:
        return set(packed.namelist())


def test_the_registrys_tool_accepts_the_pack(pack: Path) -> None:
    said = comfy(pack, "node", "validate")
    assert "passed" in said and "warning" not in said.lower(), said


def test_the_zip_holds_what_runs_and_no_more(pack: Path, listed: set[str]) -> None:
    assert {name.split("/")[0] for name in listed} == TOP
    for folder in TOP:
        files = [f for f in (pack / folder).rglob("*") if f.is_file()]
        wanted = {f.relative_to(pack).as_posix() for f in files}
        assert wanted <= listed, f"of {folder} all is packed"
    assert (pack / "node.zip").stat().st_size < MOST_MB * 1e6


def test_the_packed_pack_runs_by_itself(
    pack: Path, host: Path, server: ComfyServer, tmp_path: Path
) -> None:
    """Unpacked where a manager puts it: nodes, front end, help, translations, templates, and a
    model in the Playground.
    """
    place = tmp_path / "unpacked"
    with zipfile.ZipFile(pack / "node.zip") as packed:
        packed.extractall(place)
    with ComfyServer(host=host, pack=place) as alone:
        ours, theirs = (
            {k: v for k, v in s.object_info().items() if k.startswith("LoRA2")}
            for s in (alone, server)
        )
        assert ours == theirs
        for path in ("/extensions", "/workflow_templates", "/i18n"):
            assert alone._ask(path) == server._ask(path), path
        prompt = {
            "1": {"class_type": "LoRA2Playground", "inputs": {}},
            "2": {"class_type": "LoRA2Layers", "inputs": {"model": ["1", 0]}},
        }
        assert alone.run(prompt)["outputs"]["2"]["text"]
