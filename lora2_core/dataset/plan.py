"""Plans what becomes of each picture of a folder. Only the headers of the files are read for it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import reduce
from math import gcd
from pathlib import Path

from ..checks import check_choice, check_range, check_text
from ..paths import readable
from .beside import MASK
from .buckets import RESOLUTIONS, Size, bucket_for, enlargement, resolutions_of
from .folder import Listing, Picture
from .reading import Seen, Unusable, look, look_at_mask
from .sources import BESIDE, alike

# how many times wider or higher a picture may become. A picture that needs more is skipped: the
# adapter would learn its blur
LARGEST_ENLARGEMENT = 2.0
# highest number of entries. More entries would take hours to encode; somebody has made a mistake in
# the repeats
MOST_ENTRIES = 100_000
# how a model gets the sources of edit pairs; inpainting models get the picture without what its
# mask covers
AUTO, LATENTS, PIX2PIX, INPAINT = "auto", "reference latents", "InstructPix2Pix", "inpaint"
QWEN_EDIT, QWEN_EDIT_PLUS = "Qwen-Image-Edit", "Qwen-Image-Edit Plus"
REFERENCES = (AUTO, LATENTS, QWEN_EDIT, QWEN_EDIT_PLUS, PIX2PIX, INPAINT)
MOST_SOURCES = {QWEN_EDIT: 1, QWEN_EDIT_PLUS: 3, PIX2PIX: 1}  # of a picture
# settings that older versions did not have
LATER = ("more_resolutions",)


@dataclass(frozen=True)
class DatasetSettings:
    """Says how a folder becomes entries. An entry is a pair of a picture and a caption.

    caption: the caption of pictures without a .txt or .caption file. If it is empty, pictures in a
        folder called N_name have the name as their caption.
    resolution: side of a square in pixels. Each picture is scaled to about the area of this square.
    buckets: True: each picture roughly keeps its shape. False: a square is cut from its centre.
    flip: whether a mirrored copy of each picture is added.
    crops: number of random crops of each picture, added to the crop of its centre.
    shuffle_tags: number of variants of each caption, added to it. Their tags are in another order.
    caption_dropout: share of all entries that have an empty caption.
    seed: seed of the crops, the orders of tags, and the choice of entries with an empty caption.
    source_folder: where the sources of edit pairs lie, below the input folder; BESIDE for beside
        the pictures.
    references: one of REFERENCES, how the model gets the sources.
    more_resolutions: further resolutions, such as `512, 768`. Each picture is also encoded at those
        that it is large enough for.
    """

    caption: str = ""
    resolution: int = 1024
    buckets: bool = True
    flip: bool = False
    crops: int = 0
    shuffle_tags: int = 0
    caption_dropout: float = 0.0
    seed: int = 0
    source_folder: str = BESIDE
    references: str = AUTO
    more_resolutions: str = ""

    def __post_init__(self) -> None:
        check_text("caption", self.caption)
        check_range("resolution", self.resolution, *RESOLUTIONS, integer=True)
        check_range("crops", self.crops, 0, 100, integer=True)
        check_range("shuffle_tags", self.shuffle_tags, 0, 100, integer=True)
        check_range("caption_dropout", self.caption_dropout, 0, 0.5)
        check_range("seed", self.seed, 0, 2**64 - 1, integer=True)
        check_text("source_folder", self.source_folder)
        check_choice("references", self.references, REFERENCES)
        resolutions_of(self.more_resolutions)

    def facts(self) -> dict[str, object]:
        """Returns the settings by name; without those that an older version did not have, where
        they are off.
        """
        return {k: v for k, v in asdict(self).items() if v or k not in LATER}

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Returns all resolutions, each once, `resolution` first."""
        return tuple(dict.fromkeys((self.resolution, *resolutions_of(self.more_resolutions))))

    @property
    def variants(self) -> int:
        """Returns how many entries one picture makes at one resolution, before its repeats multiply
        them.
        """
        return max((1 + self.crops) * (1 + self.flip), 1 + self.shuffle_tags)

    def caption_of(self, picture: Picture) -> str:
        """Returns the caption from the picture's file; without one, `caption`; if that is empty
        too, the name of its folder.
        """
        if picture.caption is not None:
            return picture.caption
        return self.caption.strip() or picture.folder_caption


@dataclass(frozen=True)
class Planned:
    """Holds a picture, the facts of its header, the size that it will be scaled to, the facts of
    its sources' headers, and the resolution that its size belongs to.
    """

    picture: Picture
    seen: Seen
    bucket: Size
    sources: tuple[Seen, ...] = ()
    resolution: int = 0


def plan(listing: Listing, settings: DatasetSettings, step: int) -> list[Planned]:
    """Reads the header of each picture and returns a plan for each usable one. Other pictures are
    added to `listing.skipped`. Raises ValueError when a picture has no caption, or when its mask
    has another shape.

    step: pixels; the sides of the planned sizes are multiples of it.
    """
    planned, wordless = [], []
    for picture in listing.pictures:
        try:
            seen = look(picture.path)
            size = seen.width, seen.height
            bucket = bucket_for(size, settings.resolution, step, square=not settings.buckets)
            if enlargement(size, bucket) > LARGEST_ENLARGEMENT:
                (width, height), (wide, high) = size, bucket
                raise Unusable(
                    f"{width}x{height} is too small for {wide}x{high}: use a larger picture or "
                    "lower resolution"
                )
            if picture.mask is not None:
                check_mask(picture, seen.full, picture.mask, look_at_mask(picture.mask))
            sources = tuple(map(look_at_source, picture.sources))
        except Unusable as reason:
            listing.skipped[picture.name] = str(reason)
            continue
        if picture.caption is None and not settings.caption_of(picture):
            wordless.append(picture)
        planned.append(Planned(picture, seen, bucket, sources, settings.resolution))
    if wordless:
        raise ValueError(no_caption(wordless))
    check_sources(planned, settings)
    return planned


def look_at_source(path: Path) -> Seen:
    """Reads the header of a source. Raises Unusable when the file can't be used."""
    try:
        return look(path)
    except Unusable as reason:
        raise Unusable(f"its source is {reason}") from reason


def check_sources(planned: list[Planned], settings: DatasetSettings) -> None:
    """Raises ValueError where a picture lacks the source, or the mask, that others have or the
    choice of references needs, or has more than that takes.
    """
    kind = settings.references
    if kind == INPAINT:
        for item in planned:
            if item.picture.mask is None and not item.seen.transparent:
                raise ValueError(
                    f"There is no mask for {item.picture.name}, which references {INPAINT} needs: "
                    f"paint what is to be filled in white into {mask_name(item.picture)}."
                )
    wanted = kind not in (AUTO, INPAINT) or settings.source_folder != BESIDE
    counts = [len(item.sources) for item in planned]
    if not wanted and not any(counts):
        return
    for item, count in zip(planned, counts, strict=True):
        name = item.picture.name
        if kind == INPAINT:
            raise ValueError(f"{name} has a source, but references {INPAINT} takes masks alone.")
        if count == 0:
            raise ValueError(f"There is no source for {name}: {remedy(item.picture, settings)}.")
        if count > (most := MOST_SOURCES.get(kind, count)):
            raise ValueError(f"{name} has {count} sources, but references {kind} takes {most}.")


def mask_name(picture: Picture) -> str:
    """Returns what the mask of a picture would be called."""
    return f"{readable(picture.path.stem)}{MASK}.png"


def remedy(picture: Picture, settings: DatasetSettings) -> str:
    """Returns what to do about a missing source."""
    stem = readable(picture.path.stem)
    if settings.source_folder != BESIDE:
        return f"put {stem}.png into {readable(settings.source_folder)}, or take the picture away"
    return f"put {stem}_source.png beside it, or take the picture away"


def no_caption(pictures: list[Picture]) -> str:
    """Returns a sentence that says what to do about pictures without a caption."""
    name, file = pictures[0].name, f"{readable(pictures[0].path.stem)}.txt"
    if len(pictures) == 1:
        return (
            f"There is no caption for {name}: put {file} beside it (an empty file means no words), "
            "or fill in caption."
        )
    return (
        f"There is no caption for {name} and {len(pictures) - 1} more: put {file} beside it, and a "
        "file for each other picture (an empty file means no words), or fill in caption."
    )


def check_mask(picture: Picture, size: Size, mask: Path, mask_size: Size) -> None:
    """Raises ValueError unless a mask has the same shape as its picture. One pixel of difference is
    allowed, since sizes are rounded.
    """
    (width, height), (wide, high) = size, mask_size
    if not alike(size, mask_size):
        raise ValueError(
            f"{readable(mask.name)} is {wide} x {high}, another shape than {picture.name} "
            f"of {width} x {height}: crop it as its picture was cropped."
        )


def check_count(planned: list[Planned], settings: DatasetSettings, listing: Listing) -> int:
    """Returns the greatest common divisor of all repeats. The repeats are divided by it, since only
    their ratio matters. Raises ValueError when there is no entry, or more than MOST_ENTRIES.
    """
    if not planned:
        raise ValueError(nothing(listing))
    common = reduce(gcd, (p.picture.repeats for p in planned))
    entries = settings.variants * sum(p.picture.repeats // common for p in planned)
    if entries > MOST_ENTRIES:
        raise ValueError(
            f"The folder makes {entries} entries: lower its repeats, crops, shuffle_tags or "
            f"resolutions to stay below {MOST_ENTRIES}."
        )
    return common


def nothing(listing: Listing) -> str:
    """Returns a sentence that says why there is no usable picture, and what to do."""
    for name, reason in listing.skipped.items():
        others = len(listing.skipped) - 1
        more = f", and {others} more" if others else ""
        return f"No picture can be used: {name} ({reason}){more}; replace them."
    return "The folder holds no pictures: put png, jpg, webp, avif, bmp, tiff or gif files into it."
