"""Where pictures and logs are kept: under the host's output folder, never outside it."""

from __future__ import annotations

from pathlib import Path

import folder_paths

from ..paths import below, quoted, standing, unportable


def place_of(prefix: str) -> tuple[Path, str]:
    """Returns the folder of a prefix, made, and how the next run's files begin; ValueError where it
    leads out of the output folder or can't be made.
    """
    output = folder_paths.get_output_directory()
    if (fault := unportable(prefix)) or below(output, prefix) is None:
        raise ValueError(
            f"filename_prefix {quoted(prefix)} is no place in the output folder "
            f"({fault or 'it leads out'}): give a name such as lora2/name."
        )
    root, rest = standing(output, prefix)
    try:
        folder, name, counter, _, _ = folder_paths.get_save_image_path(rest, str(root))
    except OSError as error:
        raise ValueError(
            f"The folder of {quoted(prefix)} can't be made ({error.strerror}): choose another one."
        ) from error
    return Path(folder), f"{name}_{counter:05}_"
