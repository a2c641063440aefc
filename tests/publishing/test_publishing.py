"""What a version needs to be published is there, or named; workflows run what they name."""

import re
import subprocess
import sys

import pytest
from PIL import Image

from tests.hosting.provision import HOSTS
from tests.publishing.ready import ROOT, faults, field

PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
CHANGES = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
USES = re.compile(r"uses: ([^\s@]+)@(\S+)(.*)")


def test_only_a_persons_own_facts_are_missing():
    filled = PROJECT.replace("FILL-IN-BEFORE-PUBLISHING", "somebody")
    assert faults(filled, CHANGES) == []
    named = " ".join(faults(PROJECT, CHANGES))
    assert all(name in named for name in ("PublisherId", "Repository", "Icon", "Banner"))


def test_a_tag_must_be_the_version_and_its_section_dated():
    filled = PROJECT.replace("FILL-IN-BEFORE-PUBLISHING", "somebody")
    version = field(PROJECT, "version")
    dated = CHANGES.replace("not published yet", "2031-01-02")
    assert faults(filled, dated, f"v{version}") == []
    assert "The tag is v9.9.9" in faults(filled, dated, "v9.9.9")[0]
    assert faults(filled, "# Changelog\n")[0].startswith("CHANGELOG.md has no section")
    assert "version in pyproject.toml is '1'" in " ".join(
        faults(filled.replace(f'version = "{version}"', 'version = "1"'), dated)
    )


def test_icon_and_banner_have_the_registrys_shapes():
    with Image.open(ROOT / "docs/icon.png") as icon, Image.open(ROOT / "docs/banner.png") as banner:
        assert icon.size == (400, 400)
        assert banner.width * 9 == banner.height * 21
    for name, path in (("Icon", "docs/icon.png"), ("Banner", "docs/banner.png")):
        assert field(PROJECT, name).endswith(path)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_pinned_by_commit(path):
    found = USES.findall(path.read_text(encoding="utf-8"))
    assert found
    for action, pin, comment in found:
        assert re.fullmatch(r"[0-9a-f]{40}", pin) and re.search(r"# v\d", comment), action


def test_workflows_name_sessions_that_exist():
    listed = (ROOT / "noxfile.py").read_text(encoding="utf-8")
    sessions = set(re.findall(r"^def (\w+)\(session", listed, re.MULTILINE))
    sessions |= set(re.findall(r'nox\.session\(name="([^"]+)"', listed))
    said = "".join(path.read_text(encoding="utf-8") for path in WORKFLOWS)
    named = re.findall(r"nox -s ([\w-]+)", said)
    assert named and set(named) <= sessions


def test_requirements_mirror_the_project():
    block = PROJECT.split("dependencies = [")[1].split("\n]")[0]
    wanted = set(re.findall(r'"([^"]+)"', block))
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert {line for line in lines if line and not line.startswith("#")} == wanted


def test_the_command_says_what_is_missing():
    done = subprocess.run(
        [sys.executable, "-m", "tests.publishing.ready"], cwd=ROOT, capture_output=True, text=True
    )
    missing = "FILL-IN" in PROJECT
    assert done.returncode == int(missing) and ("PublisherId" in done.stderr) == missing


def test_the_matrix_tries_every_host_that_is_known():
    text = (ROOT / ".github/workflows/tests.yml").read_text(encoding="utf-8")
    listed = re.search(r"comfyui: \[([^]]+)\]", text)[1]
    assert re.findall(r'"([^"]+)"', listed) == list(HOSTS)
