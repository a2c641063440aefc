"""Where pictures and logs are kept: under the host's output folder, never outside it."""

from __future__ import annotations

from pathlib import Path

import folder_paths


def place_of(prefix: str) -> tuple[Path, str]:
    """The folder of a prefix, made, and how the next run's files begin; ValueError where it leads
    out of the output folder or can't be made.
    """
    if not isinstance(prefix, str) or not prefix.strip() or "\0" in prefix:
        raise ValueError(f"filename_prefix is {prefix!r}: give a name such as lora2/name.")
    prefix, output = prefix.replace("\\", "/"), folder_paths.get_output_directory()
    if prefix.endswith("/") or not inside(Path(output, prefix), Path(output)):
        raise ValueError(
            f"filename_prefix {prefix!r} is no place in the output folder: give a name such as "
            "lora2/name."
        )
    try:
        folder, name, counter, _, _ = folder_paths.get_save_image_path(prefix, output)
    except OSError as error:
        raise ValueError(
            f"The folder of {prefix!r} can't be made ({error.strerror}): choose another one."
        ) from error
    return Path(folder), f"{name}_{counter:05}_"


def inside(path: Path, folder: Path) -> bool:
    """Whether a path lies below a folder, links followed."""
    return folder.resolve() in path.resolve().parents
