"""Front ends other than the host's own: it serves them with `--front-end-root`.

They are wheels of the package index, so each is one download; they live beside the host in the
user's cache folder (tests/hosting/provision.py).
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.hosting.provision import cache_folder, lock, pip

PACKAGE, INSIDE = "comfyui-frontend-package", "comfyui_frontend_package/static"
OLDEST, PINNED, NEWEST = "oldest", "pinned", "newest"
# (version, SHA-256 of its wheel); pinned is what the host itself has installed
VERSIONS = {
    # of ComfyUI 0.27, the oldest host that the pack takes (requires-comfyui in pyproject.toml)
    OLDEST: ("1.45.20", "96c05a609f57726bf0c253faa0d554cee350e1cfab23a39debcf398afec5e9e4"),
    NEWEST: ("1.58.1", "37912597537a731a8f421179618a736c24184c5bdbfa327f38b2fb7c291852d9"),
}


def arguments(front_end: str) -> list[str]:
    """Returns the host's flags that serve the front end of that name, downloaded first if needed.

    Raises:
        ProvisionError: the package index can't be reached, or has another file.
    """
    return [] if front_end == PINNED else ["--front-end-root", str(cached(*VERSIONS[front_end]))]


def cached(version: str, digest: str) -> Path:
    """Returns the folder of a version's files."""
    target = cache_folder() / f"front-end-{version}-{digest[:12]}"
    with lock("front-end"):
        if not target.is_dir():
            print(f"Downloading {PACKAGE} {version} to {target}", flush=True)
            with tempfile.TemporaryDirectory(dir=cache_folder()) as scratch:
                install(Path(scratch), version, digest)
                # Renamed into place at the end: a folder that exists is complete.
                (Path(scratch) / "packages" / INSIDE).rename(target)
    return target


def install(scratch: Path, version: str, digest: str) -> None:
    """Puts the package below `scratch`/packages; pip compares the hash."""
    wanted = scratch / "wanted.txt"
    wanted.write_text(f"{PACKAGE}=={version} --hash=sha256:{digest}\n")
    pip(
        Path(sys.executable), "install", "--no-deps", "--require-hashes", "--no-compile",
        "--only-binary", PACKAGE, "--target", str(scratch / "packages"), "-r", str(wanted),
        failure=f"pip could not download {PACKAGE} {version} (see above): is the package index "
        "reachable?",
    )  # fmt: skip
