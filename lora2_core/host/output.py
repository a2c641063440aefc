"""Names the files of pictures and logs: under the host's output folder, never outside it."""

from __future__ import annotations

from pathlib import Path

import folder_paths

from ..paths import below, quoted, standing, unportable


def numbered_files(prefix: str) -> tuple[Path, str]:
    """Returns (folder, beginning): where the files of a run go, and what their names begin with,
    which has the next free number. The folder is made. ValueError for a prefix that leads out of
    the output folder, or whose folder can't be made.
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
