"""A JPEG's orientation, profile and end, by the same rule in Python and in the page."""

import io
import struct

import pytest
from PIL import Image, ImageCms

from keras_pipeline.data.jpeg_header import JpegHeader, read


def jpeg(**options):
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (10, 200, 30)).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def exif(*entries, order="<"):
    """An APP1 segment with the given (tag, type, count, value) of the first directory."""
    body = b"".join(struct.pack(f"{order}HHIHH", *entry, 0) for entry in entries)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(entries))
    payload = b"Exif\0\0" + head + body + bytes(4)
    return b"\xff\xe1" + struct.pack(">H", len(payload) + 2) + payload


def with_segments(*segments):
    plain = jpeg()
    return plain[:2] + b"".join(segments) + plain[2:]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    "entries, orientation",
    [
        ([(0x0112, 3, 1, 6)], 6),
        ([(0x0100, 3, 1, 9), (0x0112, 3, 1, 8)], 8),
        ([(0x0112, 3, 1, 9)], 1),  # no orientation
        ([(0x0112, 3, 1, 0)], 1),
        ([(0x0112, 4, 1, 6)], 1),  # a LONG
        ([(0x0112, 3, 2, 6)], 1),  # two numbers
        ([(0x0100, 3, 1, 6)], 1),  # another tag
        ([], 1),
    ],
)
def test_the_orientation_is_one_short_from_1_to_8(order, entries, orientation):
    assert read(with_segments(exif(*entries, order=order))) == JpegHeader(
        16, 16, 3, orientation=orientation, is_complete=True
    )


def test_the_first_exif_segment_counts():
    six, three = exif((0x0112, 3, 1, 6)), exif((0x0112, 3, 1, 3))
    assert read(with_segments(six, three)).orientation == 6
    assert read(with_segments(b"\xff\xff", three, six)).orientation == 3  # after a fill byte
    xmp = b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="6"/>'
    assert read(with_segments(b"\xff\xe1" + struct.pack(">H", len(xmp) + 2) + xmp)).orientation == 1


@pytest.mark.parametrize("cut", range(2, 60, 3))
def test_a_broken_exif_segment_is_upright(cut):
    segment = exif((0x0112, 3, 1, 6))
    payload = segment[4:][: max(0, len(segment) - 4 - cut)]
    assert read(with_segments(b"\xff\xe1" + struct.pack(">H", len(payload) + 2) + payload)).orientation in (1, 6)


def test_a_profile_and_the_end():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert read(jpeg(icc_profile=profile)).profile == profile
    assert read(jpeg(icc_profile=profile * 200)).profile == profile * 200  # in two segments
    assert not read(jpeg()[:-2]).is_complete and read(jpeg() + b"more").is_complete
    thumbnail = b"\xff\xd8\xff\xd9"  # an end of image in a segment is another picture's
    assert not read(with_segments(b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail)[:-2]).is_complete


@pytest.mark.parametrize("file", [b"", b"\x89PNG\r\n", b"\xff", b"GIF89a"])
def test_other_files_are_none(file):
    assert read(file) is None


def test_a_header_without_a_scan_is_cut_off():
    assert read(jpeg()[:30]) == JpegHeader()


@pytest.mark.parametrize(
    "marker, bits, unusual",
    [
        (0xC0, 8, ""),
        (0xC1, 8, ""),
        (0xC2, 8, ""),
        (0xC1, 12, "12 bits"),
        (0xC3, 8, "lossless"),
        (0xC9, 8, "arithmetic coding"),
    ],
)
def test_the_coding_is_named_where_browsers_do_not_read_it(marker, bits, unusual):
    plain = jpeg()
    at = plain.index(b"\xff\xc0")
    header = read(plain[: at + 1] + bytes([marker]) + plain[at + 2 : at + 4] + bytes([bits]) + plain[at + 5 :])
    assert (header.unusual, header.width, header.height, header.components) == (unusual, 16, 16, 3)


def test_bytes_between_segments_are_skipped_as_by_the_decoder():
    plain = jpeg()
    at = plain.index(b"\xff\xdb")
    assert read(plain[:at] + b"\0\x12junk" + plain[at:]) == read(plain)


def test_a_phones_second_picture_is_noticed():
    buffer = io.BytesIO()
    first, second = Image.new("RGB", (16, 16)), Image.new("RGB", (16, 16))
    first.save(buffer, "MPO", save_all=True, append_images=[second])
    assert read(buffer.getvalue()).has_second_picture and not read(jpeg()).has_second_picture
