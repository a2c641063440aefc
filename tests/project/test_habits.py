"""The tools before a commit are those of `nox -s lint`."""

from tests.hosting.provision import RUFF
from tests.structure import ROOT


def test_ruff_has_one_version():
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert hooks.count("ruff==") == hooks.count(f"[{RUFF}]") == 2
