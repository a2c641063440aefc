"""ComfyUI's modules in this process, without its server: their folder, and the order of sys.path.

The host's folder comes first and this pack's last, since both have modules `nodes` and `tests`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

PACK = Path(__file__).resolve().parents[2]
MAIN = "main.py"


def find_comfyui(given: str | None = None) -> Path:
    """Returns ComfyUI's folder: `given`, else COMFYUI_PATH or LORA2_HOST, else the folder whose
    custom_nodes holds this pack. Raises ValueError when that is no ComfyUI.
    """
    named = given or os.environ.get("COMFYUI_PATH") or os.environ.get("LORA2_HOST")
    folder = Path(named) if named else Path(os.path.abspath(__file__)).parents[4]
    if not (folder / MAIN).is_file() or not (folder / "comfy").is_dir():
        raise ValueError(
            f"{folder} is no ComfyUI folder: give --comfyui FOLDER, or set COMFYUI_PATH."
        )
    return folder.resolve()


def enter(comfyui: Path, base: Path | None = None) -> None:
    """Makes `import comfy` work. Call it before anything imports comfy.

    base: the folder of models, inputs and outputs; None for the host's own.
    """
    if "comfy" in sys.modules:  # a test, or a second trial in this process
        return
    rest = [p for p in sys.path if Path(p or ".").resolve() != PACK]
    sys.path[:] = [str(comfyui), *rest, str(PACK)]
    import torch
    from comfy.cli_args import args

    gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
    args.cpu = os.environ.get("LORA2_DEVICE") == "cpu" or not gpu
    args.use_pytorch_cross_attention = True
    if base is not None:
        args.base_directory = str(base.resolve())
    extra = comfyui / "extra_model_paths.yaml"
    if extra.is_file():
        from utils.extra_config import load_extra_path_config

        load_extra_path_config(str(extra))
