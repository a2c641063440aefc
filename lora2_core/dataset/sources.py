"""The sources of edit pairs: the pictures that a training picture was made of. They lie beside it,
or under its name in a folder of their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from .beside import paired, unused
from .buckets import Size, bucket_for
from .crops import Crop, crop_to
from .formats import suffixes
from .reading import Seen
from .walking import NEAR, File, walk

# in the place of a second folder: sources are owl_source.png beside owl.png
BESIDE = "beside the pictures"
# owl_source.png is the source of owl.png; further ones are owl_source2.png, owl_source3.png
_SOURCE = re.compile(r"(.+)_source([2-9]?)", re.IGNORECASE | re.DOTALL)

# picture -> its sources, in the order of their numbers
Sources = dict[Path, list[Path]]


def source_of(path: Path) -> tuple[str, int] | None:
    """Returns the name of the picture that a source belongs to, without its ending, and the number
    of the source; None if the file is not named so.
    """
    match = _SOURCE.fullmatch(path.stem)
    return None if match is None else (match[1], int(match[2] or 1))


def apart(pictures: list[File]) -> tuple[list[File], Sources, dict[str, str]]:
    """Returns the pictures without the sources beside them, these sources, and reasons by the names
    of sources that no picture uses. Where no picture has one, all are pictures.
    """
    named: dict[int, list[tuple[str, File]]] = {}
    for file in pictures:
        if (source := source_of(file.path)) is not None:
            named.setdefault(source[1], []).append((source[0], file))
    targets = [file for file in pictures if source_of(file.path) is None]
    found: Sources = {}
    reasons: dict[str, str] = {}
    for number in sorted(named):
        matched, unmatched = paired(targets, named[number])
        reasons |= unused("source", matched, unmatched)
        for path, files in matched.items():
            found.setdefault(path, []).append(files[0].path)
    return (targets, found, reasons) if found else (pictures, {}, {})


def of_folder(pictures: Iterable[File], folder: Path, other: Path) -> tuple[Sources, dict]:
    """Returns the sources that lie under their pictures' names in another folder, and reasons by
    the names of those that no picture uses.
    """
    endings, real, named = suffixes(), {}, []
    for file in walk(other, deepest=NEAR):
        if file.path.suffix.lower() in endings:
            there = File(folder.joinpath(*file.folders, file.path.name), file.folders)
            real[there.path] = file.path
            named.append((file.path.stem, there))
    matched, unmatched = paired(pictures, named)
    reasons = {f"{other.name}/{n}": why for n, why in unused("source", matched, unmatched).items()}
    return {path: [real[files[0].path]] for path, files in matched.items()}, reasons


def boxes(
    crops: list[Crop], target: Seen, source: Seen, bucket: Size, own: Size
) -> tuple[list[Crop], Size]:
    """Returns a crop of a source for each crop of its picture, and the size that it is scaled to: a
    source of the picture's shape is cropped and mirrored alike. Of another shape, its centre is
    taken in the size `own`, mirrored alike.
    """
    size = source.width, source.height
    if not alike(target.full, source.full):
        centre = crop_to(size, own)
        return [replace(centre, flip=crop.flip) for crop in crops], own
    across, down = size[0] / target.width, size[1] / target.height
    made = []
    for crop in crops:
        left = min(round(crop.left * across), size[0] - 1)
        top = min(round(crop.top * down), size[1] - 1)
        width = min(max(1, round(crop.width * across)), size[0] - left)
        height = min(max(1, round(crop.height * down)), size[1] - top)
        made.append(Crop(left, top, width, height, crop.flip))
    return made, bucket


def own_bucket(source: Seen, resolution: int, step: int, *, square: bool) -> Size:
    """Returns the bucket of a source by itself."""
    return bucket_for((source.width, source.height), resolution, step, square=square)


def alike(one: Size, other: Size) -> bool:
    """Returns whether two sizes have one shape, up to a pixel, since sizes are rounded."""
    (width, height), (wide, high) = one, other
    return abs(wide * height / high - width) <= 1 or abs(high * width / wide - height) <= 1
