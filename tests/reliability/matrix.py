"""The host tier on another ComfyUI, with the packages of the newest: `nox -s host-matrix` runs
`python -m tests.reliability.matrix` for each, its folder in LORA2_HOST.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

from tests.hosting.inprocess import REPOSITORY
from tests.hosting.provision import NEWEST, host_version
from tests.reliability.figures import Figure, keep

TESTS = ("tests/host", "tests/server/test_pack.py", "tests/server/test_quick_start.py")
ROW = -1  # of no number: it is asked for beside the 16
NAMED = 8  # failed tests that the row names


def results(report: Path) -> tuple[int, list[str]]:
    """(tests that passed, names of those that did not) of a report of pytest in JUnit's XML."""
    passed, failed = 0, []
    for case in ElementTree.parse(report).iter("testcase"):
        kinds = {part.tag for part in case}
        if kinds & {"failure", "error"}:
            failed.append(case.get("name", "").split("[")[0])
        elif "skipped" not in kinds:
            passed += 1
    return passed, failed


def figure_of(version: str, passed: int, failed: list[str]) -> Figure:
    """The row of a ComfyUI."""
    packages = "" if version == NEWEST else f", with the packages of {NEWEST}"
    measured = f"ComfyUI {version}{packages}: {passed} tests passed, {len(failed)} failed"
    if names := sorted(set(failed)):
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        measured += f" ({', '.join(names[:NAMED])}{more})"
    return Figure(ROW, measured, passed > 0 and not failed)


def main() -> int:
    """Pytest's exit code."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [sys.executable, "-m", "pytest", "--all", "-q", f"--junit-xml={report}", *TESTS]
        code = subprocess.run(command, cwd=REPOSITORY).returncode
        if not report.is_file():
            return code or 1
        version = host_version(Path(os.environ["LORA2_HOST"]))
        keep("host-matrix", [figure_of(version, *results(report))], f"-{version}")
    return code


if __name__ == "__main__":
    sys.exit(main())
