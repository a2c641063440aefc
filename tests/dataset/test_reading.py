"""Pictures as cameras, downloads and programs leave them: of any kind, cut off, huge, moving, and
masks that are painted on transparency.
"""

import random
import warnings
from zlib import crc32

import numpy as np
import pytest
from PIL import Image, ImageFile

import lora2_core.dataset.reading as reading
from lora2_core.dataset.cut import completed
from lora2_core.dataset.formats import suffixes
from lora2_core.dataset.reading import Unusable, decode, decode_mask, look, working_size


def noise(size=(64, 48)) -> Image.Image:
    """A picture whose every block is different."""
    pixels = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8)
    return Image.fromarray(pixels).resize(size)


@pytest.mark.parametrize(
    ("name", "form"),
    [("a.jfif", "JPEG"), ("a.jpe", "JPEG"), ("a.avif", "AVIF"), ("a.webp", "WEBP"),
     ("a.apng", "PNG"), ("a.jp2", "JPEG2000"), ("a.ppm", "PPM"), ("a.jpg", "WEBP"),
     ("a.tif", "TIFF"), ("a.qoi", "QOI")],
)  # fmt: skip
def test_what_the_hosts_pillow_reads_is_read(tmp_path, name: str, form: str):
    assert name[1:] in suffixes()
    noise().save(tmp_path / name, form)
    assert look(tmp_path / name).full == (64, 48)
    assert decode((tmp_path / name).read_bytes()).shape == (48, 64, 3)


def test_endings_that_run_programs_or_guess_are_not_read():
    assert not {".eps", ".ps", ".pdf", ".tga", ".wmf", ".h5", ".mpg", ".psd"} & set(suffixes())


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp", ".avif", ".tif"])
def test_of_moving_pictures_the_first_frame_is_used(tmp_path, suffix: str):
    frames = [Image.new("RGB", (32, 32), c) for c in ("red", "blue", "lime")]
    path = tmp_path / f"a{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert look(path).animated
    assert np.abs(decode(path.read_bytes())[16, 16] - [1, 0, 0]).max() < 0.1


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_that_lacks_its_end_is_used(tmp_path, options: dict, mode: str):
    path = tmp_path / "a.jpg"
    noise((256, 256)).convert(mode).save(path, quality=90, **options)
    data = path.read_bytes()
    whole = decode(data)
    for missing in (1, 2, 3, 40, len(data) // 50):
        cut = data[:-missing]
        assert completed(cut)[1] and not completed(data)[1]
        path.write_bytes(cut)
        assert look(path).full == (256, 256)
        assert np.abs(decode(cut) - whole)[:200].max() < 0.02 or options
        assert decode(cut + b"\0" * 512).shape == whole.shape  # a disk fills with zeros
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_a_jpeg_of_which_much_is_missing_is_told(options: dict, tmp_path):
    noise((256, 256)).save(tmp_path / "a.jpg", **options)
    data = (tmp_path / "a.jpg").read_bytes()
    for share in (0.2, 0.3, 0.5, *([] if options else [0.75])):
        with pytest.raises(Unusable, match="cut off: .*% of it is missing"):
            decode(data[: int(share * len(data))])
    with pytest.raises(Unusable, match="unreadable"):
        decode(data[:100])


def test_large_pictures_are_scaled_without_the_hosts_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # the process's own, which stays
    monkeypatch.setattr(reading, "LARGE", 64 * 48)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for mode in ("RGB", "L", "P", "RGBA", "LA", "CMYK", "1", "I;16"):
            picture = noise((320, 240)).convert("L" if mode == "I;16" else mode)
            if mode == "I;16":
                picture = Image.fromarray(np.asarray(picture).astype(np.uint16) * 257)
            exif = Image.Exif()
            exif[0x0112] = 6
            path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
            picture.save(path, exif=exif)
            seen = look(path)
            assert (seen.width, seen.height, seen.full) == (48, 64, (240, 320)), mode
            pixels = decode(path.read_bytes())
            assert pixels.shape == (64, 48, 3) and 0.3 < pixels.mean() < 0.9, mode
            assert decode_mask(path.read_bytes(), alpha=False).shape == (64, 48)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_a_bomb_is_refused_by_what_its_header_says(tmp_path):
    path = tmp_path / "bomb.png"
    Image.new("1", (40, 40)).save(path)
    data = bytearray(path.read_bytes())
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    data[29:33] = crc32(data[12:29]).to_bytes(4, "big")
    path.write_bytes(data)
    with pytest.raises(Unusable, match="more than 268 megapixels"):
        look(path)


def test_working_sizes():
    assert working_size((8192, 8192)) == (8192, 8192)
    generator = random.Random(1)
    for _ in range(500):
        size = generator.randint(1, 60_000), generator.randint(1, 60_000)
        wide, high = working_size(size)
        assert 0 < wide * high <= max(reading.LARGE, max(size))


def painted(mode: str) -> Image.Image:
    """White on the left, and nothing on the right, which is white or black below it."""
    mask = np.full((40, 40, 4), 255, np.uint8)
    mask[:, 20:, 3] = 0
    mask[:20, 20:, :3] = 0 if mode == "RGBA" else 255
    if mode != "P":
        return Image.fromarray(mask).convert(mode)
    image = Image.fromarray(np.where(mask[..., 3] == 0, 1, 0).astype(np.uint8)).convert("P")
    image.putpalette([255] * 6)
    image.info["transparency"] = 1
    return image


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
@pytest.mark.parametrize("form", ["png", "webp", "tif"])
def test_what_is_transparent_in_a_mask_does_not_count(tmp_path, mode: str, form: str):
    if form == "tif" and mode == "P":
        pytest.skip("TIFF has no transparent colours")
    options = {"lossless": True} if form == "webp" else {}
    path = tmp_path / f"mask.{form}"
    painted(mode).save(path, **options)
    mask = decode_mask(path.read_bytes(), alpha=False)
    assert (mask[:, :20] == 1).all() and (mask[:, 20:] == 0).all()


def test_a_mask_may_be_a_gif(tmp_path):
    painted("P").save(tmp_path / "mask.gif")
    mask = decode_mask((tmp_path / "mask.gif").read_bytes(), alpha=False)
    assert (mask[:, :20] == 1).all() and (mask[:, 20:] == 0).all()


def test_masks_in_16_bits_may_have_a_transparent_value(tmp_path):
    grey = np.full((8, 8), 65535, np.uint16)
    grey[:, 4:] = 40_000
    Image.fromarray(grey).save(tmp_path / "mask.png", transparency=40_000)
    data = (tmp_path / "mask.png").read_bytes()
    half = np.repeat([[1.0] * 4 + [0.0] * 4], 8, axis=0)
    assert (decode_mask(data, alpha=False) == half).all()
    assert (decode_mask(data, alpha=True) == half).all()
