"""The plan for every picture of a folder, made from the files' headers before any is decoded."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from math import gcd
from pathlib import Path

from ..checks import check_range, check_text
from ..paths import readable
from .buckets import Size, bucket_for, enlargement
from .folder import Listing, Picture
from .reading import Seen, Unusable, look, look_at_mask

# times; a picture that would be enlarged more is skipped, since it would teach blur
LARGEST_ENLARGEMENT = 2.0
# pairs of a picture and a caption: more would take hours to encode, and are a mistake in the
# repeats
MOST_ENTRIES = 100_000


@dataclass(frozen=True)
class DatasetSettings:
    """How a folder becomes entries, which are pairs of a picture and a caption.

    caption: for pictures without a .txt or .caption file. If it is empty, pictures in a folder
        called N_name get the name.
    resolution: pixels; every picture gets about the area of its square.
    buckets: keep about the picture's shape; otherwise a square is cut from its centre.
    flip: add each picture mirrored.
    crops: number of random crops that are added to each picture's centre.
    shuffle_tags: number of variants of each caption with its tags in another order.
    caption_dropout: share of all entries that have an empty caption.
    """

    caption: str = ""
    resolution: int = 1024
    buckets: bool = True
    flip: bool = False
    crops: int = 0
    shuffle_tags: int = 0
    caption_dropout: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_text("caption", self.caption)
        check_range("resolution", self.resolution, 16, 8192, integer=True)
        check_range("crops", self.crops, 0, 100, integer=True)
        check_range("shuffle_tags", self.shuffle_tags, 0, 100, integer=True)
        check_range("caption_dropout", self.caption_dropout, 0, 0.5)
        check_range("seed", self.seed, 0, 2**64 - 1, integer=True)

    @property
    def variants(self) -> int:
        """Returns the number of entries of a picture that is repeated once."""
        return max((1 + self.crops) * (1 + self.flip), 1 + self.shuffle_tags)

    def caption_of(self, picture: Picture) -> str:
        """Returns a picture's own caption, else the caption for all, else that of its folder."""
        if picture.caption is not None:
            return picture.caption
        return self.caption.strip() or picture.folder_caption


@dataclass(frozen=True)
class Planned:
    """A picture, the facts of its header, and the size that it is scaled to."""

    picture: Picture
    seen: Seen
    bucket: Size


def plan(listing: Listing, settings: DatasetSettings, step: int) -> list[Planned]:
    """Reads the headers and returns a plan for each usable picture; the others are added to
    listing.skipped. Raises ValueError when a picture has no caption, or a mask of another shape.
    """
    planned, wordless = [], []
    for picture in listing.pictures:
        try:
            seen = look(picture.path)
            size = seen.width, seen.height
            bucket = bucket_for(size, settings.resolution, step, square=not settings.buckets)
            if enlargement(size, bucket) > LARGEST_ENLARGEMENT:
                wide, high = bucket
                raise Unusable(f"{size[0]}x{size[1]} is less than half of {wide}x{high}")
            if picture.mask is not None:
                check_mask(picture, seen.full, picture.mask, look_at_mask(picture.mask))
        except Unusable as reason:
            listing.skipped[picture.name] = str(reason)
            continue
        if picture.caption is None and not settings.caption_of(picture):
            wordless.append(picture)
        planned.append(Planned(picture, seen, bucket))
    if wordless:
        raise ValueError(no_caption(wordless))
    return planned


def no_caption(pictures: list[Picture]) -> str:
    """Returns a sentence on what to do about pictures without a caption."""
    name, file = pictures[0].name, f"{readable(pictures[0].path.stem)}.txt"
    if len(pictures) == 1:
        return (
            f"There is no caption for {name}: put {file} beside it (an empty one for no words), or "
            "fill in caption."
        )
    return (
        f"There is no caption for {name} and {len(pictures) - 1} more: put {file} beside it and so "
        "on (empty ones for no words), or fill in caption."
    )


def check_mask(picture: Picture, size: Size, mask: Path, mask_size: Size) -> None:
    """Raises ValueError unless a mask has the shape of its picture, to a pixel of rounding."""
    (width, height), (wide, high) = size, mask_size
    if abs(wide * height / high - width) > 1 and abs(high * width / wide - height) > 1:
        raise ValueError(
            f"{readable(mask.name)} is {wide} x {high}, another shape than {picture.name} "
            f"of {width} x {height}: crop it as its picture was cropped."
        )


def check_count(planned: list[Planned], settings: DatasetSettings, listing: Listing) -> int:
    """Returns the greatest common divisor of all repeats, of which only the ratio matters. Raises
    ValueError for no entries, or too many.
    """
    if not planned:
        raise ValueError(nothing(listing))
    common = reduce(gcd, (p.picture.repeats for p in planned))
    entries = settings.variants * sum(p.picture.repeats // common for p in planned)
    if entries > MOST_ENTRIES:
        raise ValueError(
            f"The folder makes {entries} entries: lower its repeats, crops or shuffle_tags to stay "
            f"below {MOST_ENTRIES}."
        )
    return common


def nothing(listing: Listing) -> str:
    """Returns a sentence on why there is no picture at all."""
    for name, reason in listing.skipped.items():
        others = len(listing.skipped) - 1
        more = f", and {others} more" if others else ""
        return f"No picture can be used: {name} ({reason}){more}; replace them."
    return "The folder holds no pictures: put png, jpg, webp, avif, bmp, tiff or gif files into it."
