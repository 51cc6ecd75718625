"""From any photo to the JPEG of a record: against Pillow, literal numbers and invariances."""

import io
import struct
import zlib

import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageCms
from support import made_photos

from keras_pipeline.data import photo as photos
from keras_pipeline.data.exif import ORIENTATION
from keras_pipeline.data.first_bytes import Refusal
from keras_pipeline.data.photo import seen, to_record, upright_rgb

OPTIONS = {"short_side": 64, "min_short_side": 20, "quality": 95}


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def gradient(width=30, height=20):
    """Red grows to the right, green downwards: any flip or rotation shows."""
    red = np.repeat(np.linspace(0, 250, width)[None], height, 0)
    green = np.repeat(np.linspace(0, 250, height)[:, None], width, 1)
    return Image.fromarray(np.stack([red, green, np.full_like(red, 60)], -1).astype(np.uint8))


def with_orientation(image, orientation, kind="PNG"):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return encoded(image, kind, exif=exif.tobytes())


# What the camera stored, given that the upright picture is `p`: EXIF 2.32, table of tag 0x0112.
STORED = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.swapaxes(0, 1),
    6: lambda p: np.rot90(p, 1),
    7: lambda p: np.rot90(p, 2).swapaxes(0, 1),
    8: lambda p: np.rot90(p, -1),
}


@pytest.mark.parametrize("orientation", STORED)
def test_exif_orientation_is_applied(orientation):
    upright = np.asarray(gradient())
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    np.testing.assert_array_equal(upright_rgb(with_orientation(stored, orientation)), upright)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_impossible_orientation_is_ignored(orientation):
    np.testing.assert_array_equal(upright_rgb(with_orientation(gradient(), orientation)), gradient())


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_lossless_formats_arrive_unchanged(kind):
    np.testing.assert_array_equal(upright_rgb(encoded(gradient(), kind)), gradient())


@pytest.mark.parametrize("kind, options", [("WEBP", {"lossless": True}), ("GIF", {})])
def test_webp_and_gif(kind, options):
    image = Image.new("RGB", (30, 20), (255, 0, 0))
    np.testing.assert_array_equal(upright_rgb(encoded(image, kind, **options)), image)


def test_the_first_frame_of_an_animation():
    frames = [Image.new("RGB", (30, 20), colour) for colour in ("red", "blue")]
    animation = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert upright_rgb(animation).getpixel((5, 5)) == (255, 0, 0)


def test_grey_becomes_three_equal_channels():
    pixels = np.asarray(upright_rgb(encoded(gradient().convert("L"))))
    np.testing.assert_array_equal(pixels, np.repeat(np.asarray(gradient().convert("L"))[..., None], 3, -1))


def test_sixteen_bit_grey_keeps_its_upper_byte():
    # 0x8000 = 32768 of 65535 is half: 128 of 255, not a clipped 255
    values = np.array([[0, 0x8000, 0xFFFF]] * 3, np.uint16)
    assert np.asarray(upright_rgb(encoded(Image.fromarray(values))))[0, :, 0].tolist() == [0, 128, 255]


def test_sixteen_bit_grey_with_a_transparent_colour():
    values = Image.fromarray(np.full((3, 3), 0x8000, np.uint16))
    assert upright_rgb(encoded(values, transparency=5)).getpixel((0, 0)) == (128, 128, 128)


def test_palette():
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 10, 200, 30])
    assert upright_rgb(encoded(image)).getpixel((1, 1)) == (10, 200, 30)


@pytest.mark.parametrize("mode, colour", [("RGBA", (0, 0, 0, 51)), ("LA", (0, 51))])
def test_alpha_is_laid_on_white(mode, colour):
    # black at alpha 51/255 = 0.2 over white: 255 * 0.8 = 204
    assert upright_rgb(encoded(Image.new(mode, (4, 4), colour))).getpixel((1, 1)) == (204, 204, 204)


def test_transparent_palette_entry_is_laid_on_white():
    image = Image.new("P", (4, 4), 0)
    image.putpalette([9, 9, 9, 10, 200, 30])
    image.putpixel((1, 1), 1)
    pixels = upright_rgb(encoded(image, transparency=0))
    assert (pixels.getpixel((0, 0)), pixels.getpixel((1, 1))) == ((255, 255, 255), (10, 200, 30))


def test_cmyk_is_not_inverted():
    # full yellow ink, no other: yellow
    photo = encoded(Image.new("CMYK", (16, 16), (0, 0, 255, 0)), "JPEG", quality=100)
    red, green, blue = upright_rgb(photo).getpixel((8, 8))
    assert red > 250 and green > 250 and blue < 5


def swapped_profile():
    """A profile whose red and blue primaries are exchanged, so that applying it can't go unnoticed."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    entries = {
        bytes(profile[i : i + 4]): i for i in range(132, 132 + 12 * struct.unpack(">I", profile[128:132])[0], 12)
    }
    red, blue = entries[b"rXYZ"], entries[b"bXYZ"]
    profile[red + 4 : red + 12], profile[blue + 4 : blue + 12] = (
        profile[blue + 4 : blue + 12],
        profile[red + 4 : red + 12],
    )
    return bytes(profile)


def test_colour_profile_is_applied():
    photo = encoded(Image.new("RGB", (4, 4), (200, 100, 20)), icc_profile=swapped_profile())
    np.testing.assert_allclose(upright_rgb(photo).getpixel((1, 1)), (20, 100, 200), atol=2)


@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_colour_profile_is_applied_with_alpha_and_palette_too(mode):
    image = Image.new("RGB", (4, 4), (200, 100, 20))
    image = image.quantize(4) if mode == "P" else image.convert(mode)
    photo = encoded(image, icc_profile=swapped_profile())
    np.testing.assert_allclose(upright_rgb(photo).getpixel((1, 1)), (20, 100, 200), atol=2)


def test_a_profile_of_another_colour_space_is_ignored():
    photo = encoded(Image.new("L", (4, 4), 90), icc_profile=swapped_profile())
    assert upright_rgb(photo).getpixel((1, 1)) == pytest.approx((90, 90, 90), abs=2)


def test_a_broken_profile_means_srgb():
    photo = encoded(Image.new("RGB", (4, 4), (200, 100, 20)), icc_profile=b"no profile at all")
    assert upright_rgb(photo).getpixel((1, 1)) == (200, 100, 20)


def png_claiming(width, height):
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = lambda kind, data: (  # noqa: E731
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    )
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_a_bomb_is_refused_before_it_is_decoded(monkeypatch):
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    with pytest.raises(ValueError, match="larger than 120000000 pixels"):
        upright_rgb(png_claiming(60_000, 60_000))


@pytest.mark.parametrize("photo", [b"", b"<html>404</html>", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_photo_raises(photo):
    with pytest.raises(ValueError, match="not a JPEG, PNG|damaged|cut off"):
        upright_rgb(photo)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_truncated_photo_raises(kind, jpeg):
    photo = encoded(Image.open(io.BytesIO(jpeg(1, (64, 64)))), kind)
    with pytest.raises(ValueError, match="damaged|cut off"):
        upright_rgb(photo[: len(photo) * 2 // 3])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "ICO", "MPO", "AVIF"])
def test_damaged_bytes_never_raise_anything_but_value_error(kind):
    # One bad photo among 850,000 must not end the export.
    rng = np.random.default_rng(0)
    exif = {"exif": Image.Exif()} if kind in ("JPEG", "PNG", "WEBP") else {}
    if exif:
        exif["exif"][ORIENTATION] = 6
    photo = encoded(gradient(24, 24), kind, **exif)
    for _ in range(100):
        data = bytearray(photo)
        for position in rng.integers(0, min(len(data), 300), rng.integers(1, 5)):
            data[position] = rng.integers(0, 256)
        try:
            to_record(bytes(data), **OPTIONS)
        except ValueError:
            continue


def test_sizes_are_literal_and_nothing_is_enlarged():
    # 301 x 200 to short side 64: long side floor(301 * 64 / 200 + 0.5) = floor(96.82) = 96
    assert seen(encoded(gradient(301, 200)), 64).shape == (64, 96, 3)
    assert seen(encoded(gradient(200, 301)), 64).shape == (96, 64, 3)
    np.testing.assert_array_equal(seen(encoded(gradient(30, 20)), 64), gradient(30, 20))


def test_a_plain_small_jpeg_keeps_its_own_bytes(jpeg):
    photo = jpeg(3, (40, 36))
    assert to_record(photo, **OPTIONS) == (photo, 36, 40)


@pytest.mark.parametrize("change", ["large", "rotated", "grey", "png", "profile"])
def test_other_photos_are_stored_as_plain_jpegs(change):
    photo = {
        "large": lambda: encoded(gradient(200, 100), "JPEG"),
        "rotated": lambda: with_orientation(gradient(40, 30), 6, "JPEG"),
        "grey": lambda: encoded(gradient(40, 30).convert("L"), "JPEG"),
        "png": lambda: encoded(gradient(40, 30)),
        "profile": lambda: encoded(gradient(40, 30), "JPEG", icc_profile=swapped_profile()),
    }[change]()
    stored, height, width = to_record(photo, **OPTIONS)
    with Image.open(io.BytesIO(stored)) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (width, height))
        assert "icc_profile" not in image.info and not image.getexif()
    expected = seen(photo, 64)
    assert np.abs(np.asarray(upright_rgb(stored), int) - expected).max() <= 8  # JPEG at quality 95
    assert (height, width) == expected.shape[:2]


def test_too_small_is_refused_after_orientation():
    assert to_record(encoded(gradient(30, 20)), **OPTIONS)[1:] == (20, 30)
    with pytest.raises(ValueError, match="shorter side below 20 px"):
        to_record(encoded(gradient(30, 19)), **OPTIONS)


def test_a_strip_too_long_for_a_jpeg_is_refused():
    with pytest.raises(ValueError, match="longer side above 65500 px"):
        to_record(encoded(Image.new("RGB", (65_501, 20))), **OPTIONS)


def decoded(record):
    return np.asarray(Image.open(io.BytesIO(record))).astype(int)


def pillows(image, short_side):
    """Pillow's own triangle filter, which ours is within a level of."""
    size = [int(side * short_side / min(image.size) + 0.5) for side in image.size]
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR)).astype(int)


@pytest.mark.parametrize("size", [(300, 200), (131, 500), (65, 64), (640, 129)])
def test_the_resize_is_pillows_within_one_level(jpeg, size):
    image = upright_rgb(jpeg(3, size))
    ours = seen(encoded(image), 64)
    assert ours.shape == pillows(image, 64).shape
    assert np.abs(ours - pillows(image, 64)).max() <= 1


@pytest.mark.parametrize("short, decoded", [(63, 63), (64, 64), (127, 64), (128, 64), (170, 64), (171, 65), (300, 75)])
def test_a_jpeg_is_decoded_at_the_smallest_size_that_leaves_enough(jpeg, short, decoded):
    # 170 px: three eighths are 64; 171: three eighths are 65; 300: a quarter is 75, an eighth 38.
    assert photos._scaled_jpeg(jpeg(1, (short + 20, short)), "RGB", 64).shape[0] == decoded


def test_letting_the_decoder_halve_changes_little(jpeg):
    photo = jpeg(5, (800, 600))
    ours, theirs = seen(photo, 256), pillows(upright_rgb(photo), 256)
    assert ours.shape == theirs.shape == (256, 341, 3)
    assert np.abs(ours - theirs).mean() < 1 and np.abs(ours - theirs).max() <= 8


def test_a_record_is_what_is_seen_encoded_once(jpeg):
    photo = jpeg(5, (800, 600))
    assert to_record(photo, **OPTIONS)[0] == simplejpeg.encode_jpeg(seen(photo, 64), 95, "RGB", "420")
    small = jpeg(5, (80, 60))  # stored as it is
    np.testing.assert_array_equal(seen(small, 64), decoded(to_record(small, **OPTIONS)[0]))


@pytest.mark.parametrize("orientation", STORED)
def test_orientation_of_a_large_jpeg(jpeg, orientation):
    upright = upright_rgb(jpeg(5, (400, 300)))
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](np.asarray(upright))))
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    record, height, width = to_record(encoded(stored, "JPEG", quality=95, exif=exif.tobytes()), **OPTIONS)
    assert (height, width) == (64, 85)
    assert np.abs(decoded(record) - pillows(upright, 64)).mean() < 2


def test_rubbish_behind_a_jpeg_does_no_harm_but_a_cut_does(jpeg):
    photo = jpeg(5, (400, 300))
    assert to_record(photo + b"\0\r\n" * 50, **OPTIONS)[1:] == (64, 85)
    with pytest.raises(ValueError, match="cut off: the end of the JPEG is missing"):
        to_record(photo[: len(photo) * 9 // 10], **OPTIONS)
    record, height, width = to_record(photo[:-2], **OPTIONS)  # only the marker: nothing is lost
    assert (height, width) == (64, 85) and record == to_record(photo, **OPTIONS)[0]


def test_a_phones_mpo_is_stored_as_one_plain_jpeg(jpeg):
    first, second = (Image.open(io.BytesIO(jpeg(seed, (200, 150)))) for seed in (1, 2))
    photo = encoded(first, "MPO", save_all=True, append_images=[second])
    record, height, width = to_record(photo, **OPTIONS | {"short_side": 256})
    assert (height, width) == (150, 200) and record != photo
    assert np.abs(decoded(record) - decoded(jpeg(1, (200, 150)))).mean() < 4


@pytest.mark.parametrize("name", ["ICO", "EPS", "PCX"])
def test_formats_that_no_camera_writes_are_not_tried(name):
    # An icon is decoded in the moment it is opened, and PostScript is a program.
    with pytest.raises(ValueError, match="not a JPEG, PNG"):
        upright_rgb(encoded(Image.new("RGB", (16, 16)), name))


def test_a_tiff_of_more_than_16_bits_is_refused():
    with pytest.raises(Refusal, match="32 bits: more than 16 bits a channel") as caught:
        to_record(encoded(Image.fromarray(np.full((30, 30), 90_000, np.int32)), "TIFF"), **OPTIONS)
    assert caught.value.reason == "32 bits"


@pytest.mark.parametrize("name, reason", [("21_lossless", "lossless"), ("12 bits", "12 bits")])
def test_a_jpeg_that_tensorflow_can_not_decode_is_refused(name, reason):
    photo = {"21_lossless": made_photos.lossless_jpeg, "12 bits": lambda: made_photos.twelve_bits(made_photos.jpeg())}
    with pytest.raises(Refusal, match=reason):
        to_record(photo[name](), **OPTIONS)


def test_a_damaged_jpeg_is_stored_as_what_is_left_of_it(jpeg):
    photo = jpeg(3, (40, 36))
    record, *size = to_record(photo[:-2] + b"\0\1\2\3\xff\xd9", **OPTIONS)
    assert record not in photo and size == [36, 40]  # its own bytes would warn in every epoch
    assert np.abs(decoded(record) - seen(photo, 64)).mean() < 4
