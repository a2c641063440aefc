"""The host's modules inside this process: the order of sys.path, the device, the pack's two names.

`python -m tests.hosting.inprocess MODULE ARGUMENTS…` runs one of our modules that way.

Two top-level names exist twice: ComfyUI has a `nodes.py` and a `tests/` of its own. So the host
comes first on sys.path and the repository last: `import nodes` is the host's, as inside the server,
while `import lora2_core` still finds ours. `tests` is ours because it is imported before the host's
folder is on the path, and stays in sys.modules.

Our nodes are reached as `comfyui_lora2.nodes`: the pack is a folder that the server loads under a
name of its own, and comfyui_lora2 plays that part here. The pack's `from ..lora2_core import x`
would then load the core a second time, with second classes that no isinstance recognises, so
`comfyui_lora2.lora2_core.x` is made the very same module as `lora2_core.x`.
"""

from __future__ import annotations

import atexit
import importlib
import os
import runpy
import shutil
import sys
import tempfile
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType

REPOSITORY = Path(__file__).resolve().parents[2]
ALIAS, CORE = "comfyui_lora2", "lora2_core"


def enter(host: Path | None) -> None:
    """Arranges sys.path, registers the alias and, where there is a host, configures it.

    Must run before anything imports comfy: the host reads its options at import time.
    """
    rest = [p for p in sys.path if Path(p).resolve() != REPOSITORY]
    sys.path[:] = ([str(host)] if host else []) + rest + [str(REPOSITORY)]
    if not any(isinstance(finder, PackAlias) for finder in sys.meta_path):
        sys.meta_path.insert(0, PackAlias())
    if host:
        configure()


def configure() -> None:
    """The host on the CPU where torch sees no GPU, and its output folders out of the checkout."""
    import torch
    import utils  # noqa: F401 (as main.py: the host's nodes.py puts comfy/, with a utils.py, first)
    from comfy.cli_args import args

    gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
    args.cpu = os.environ.get("LORA2_DEVICE") == "cpu" or not gpu
    args.base_directory = tempfile.mkdtemp(prefix="lora2-")
    atexit.register(shutil.rmtree, args.base_directory, ignore_errors=True)


class PackAlias(MetaPathFinder, Loader):
    """Finds the pack as comfyui_lora2, and its core as the modules that `lora2_core` already is."""

    def find_spec(self, fullname: str, path=None, target=None) -> ModuleSpec | None:
        if fullname == ALIAS:
            where = [str(REPOSITORY)]
            return spec_from_file_location(
                ALIAS, REPOSITORY / "__init__.py", submodule_search_locations=where
            )
        if f"{fullname}.".startswith(f"{ALIAS}.{CORE}."):
            return ModuleSpec(fullname, self)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(spec.name.removeprefix(f"{ALIAS}."))
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        # The import system has just replaced the spec by the alias's: put the module's own back.
        module.__spec__ = module.__spec__.loader_state


def main() -> None:
    """Runs the module named first on the command line, with the host's faster attention."""
    module = sys.argv[1]
    enter(Path(os.environ["LORA2_HOST"]))
    from comfy.cli_args import args

    args.use_pytorch_cross_attention = True
    del sys.argv[0]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
