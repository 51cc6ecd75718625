"""Photos of every kind that cameras and programs write, drawn, small: `PHOTOS` is {name: bytes}.

On each of them page and Python must see the same pixels, or refuse it for the same reason; see test_one_eye.py. Most
are of kinds on which they once differed.
"""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

X, Y = np.meshgrid(np.arange(340), np.arange(270))
SCENE = np.stack([40 + X * 0.6, 60 + Y * 0.7, 90 + 60 * np.sin(X / 17)], -1)
SCENE[20:70, 20:110], SCENE[170:220, 220:300] = (220, 30, 40), (30, 180, 60)
SCENE = Image.fromarray((SCENE + np.random.default_rng(0).integers(0, 9, SCENE.shape)).clip(0, 255).astype(np.uint8))
LARGE = SCENE.resize((1331, 1057), Image.Resampling.BICUBIC)
FADED = SCENE.convert("RGBA")
FADED.putalpha(Image.fromarray((X * 255 // 339).astype(np.uint8)))


def encoded(image, kind, **options):
    """The file of a picture, by Pillow."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(name, data):
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(*chunks, image=SCENE, **options):
    """A PNG with further chunks before the pixels."""
    file = encoded(image, "PNG", **options)
    at = file.index(b"IDAT") - 4
    return file[:at] + b"".join(chunk(*each) for each in chunks) + file[at:]


def raw_png(samples, bits, colours, *chunks, interlaced=False):
    """A PNG of samples [H, W, C] of 1 to 16 bits, as Pillow does not write them."""
    height, width = samples.shape[:2]

    def lines(part):
        if bits == 16:
            return [b"\0" + row.astype(">u2").tobytes() for row in part.reshape(len(part), -1)]
        each = np.unpackbits(part.reshape(len(part), -1, 1).astype(np.uint8), axis=2)[..., 8 - bits :]
        return [b"\0" + row.tobytes() for row in np.packbits(each.reshape(len(part), -1), axis=1)]

    steps = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    parts = [samples[top::down, left::right] for left, top, right, down in (steps if interlaced else [(0, 0, 1, 1)])]
    data = b"".join(line for part in parts if part.size for line in lines(part))
    header = struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, interlaced)
    body = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in body)


def jpeg(segment=b"", image=SCENE, **options):
    """A JPEG with a first segment APP1."""
    file = encoded(image, "JPEG", **{"quality": 95, **options})
    return file[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + file[2:] if segment else file


def exif(*entries):
    """EXIF of entries (tag, type, count, value bytes)."""
    data, body = b"", b""
    for tag, kind, count, value in entries:
        if len(value) > 4:
            value, data = struct.pack(">I", 14 + 12 * len(entries) + len(data)), data + value
        body += struct.pack(">HHI", tag, kind, count) + value.ljust(4, b"\0")
    return b"MM\0*" + struct.pack(">IH", 8, len(entries)) + body + b"\0\0\0\0" + data


def turned_by(orientation):
    """EXIF of an orientation."""
    return exif((0x112, 3, 1, struct.pack(">H", orientation)))


def profile(space, connection, *tags):
    """An ICC profile of version 2."""
    tags = [(b"wtpt", xyz(0.9642, 1, 0.8249)), *((name, data + b"\0" * (-len(data) % 4)) for name, data in tags)]
    table, body, at = b"", b"", 132 + 12 * len(tags)
    for name, data in tags:
        table, body = table + name + struct.pack(">II", at + len(body), len(data)), body + data
    head = (
        struct.pack(">I", at + len(body)) + b"lcms\2\x40\0\0prtr" + space + connection + bytes(12) + b"acsp" + bytes(28)
    )
    return head + struct.pack(">3i", 63190, 65536, 54061) + bytes(48) + struct.pack(">I", len(tags)) + table + body


def xyz(*values):
    """A tag of three numbers."""
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in values))


def gamma(value):
    """A tone curve."""
    return b"curv\0\0\0\0\0\0\0\1" + struct.pack(">H", int(value * 256))


def table(count, curve):
    """A tone curve in `count` points."""
    return (
        b"curv\0\0\0\0"
        + struct.pack(">I", count)
        + np.round(65535 * curve(np.linspace(0, 1, count))).astype(">u2").tobytes()
    )


def rgb_profile(red, green, blue, curve):
    """A profile of an RGB space by its primaries."""
    primaries = zip((b"rXYZ", b"gXYZ", b"bXYZ"), (red, green, blue), strict=True)
    tags = [(name, xyz(*each)) for name, each in primaries]
    return profile(b"RGB ", b"XYZ ", *tags, *((name, curve) for name in (b"rTRC", b"gTRC", b"bTRC")))


def srgb_curve(x):
    """Of sRGB, 0..1."""
    return np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)


def ink_profile():
    """CMYK to Lab by a table of the corners."""
    corners = [(c, m, y, k) for c in (0, 1) for m in (0, 1) for y in (0, 1) for k in (0, 1)]
    lab = b"".join(
        bytes([max(8, 95 - 38 * c - 45 * m - 7 * y - 78 * k) * 255 // 100,
               128 + (72 * m - 35 * c) * (1 - k), 128 + (88 * y - 48 * c) * (1 - k)])
        for c, m, y, k in corners
    )  # fmt: skip
    unit = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    straight = bytes(range(256))
    tag = b"mft1\0\0\0\0\4\3\2\0" + unit + straight * 4 + lab + straight * 3
    return profile(b"CMYK", b"Lab ", (b"A2B0", tag))


def lossless_jpeg(width=300, height=260, colour=(60, 160, 70)):
    """A JPEG of SOF3, predictor 1, in one colour: all differences but the first are 0."""

    def code(difference):
        size = abs(difference).bit_length()
        value = difference if difference > 0 else difference + (1 << size) - 1
        return f"{size:04b}" + (f"{value:0{size}b}" if size else "")

    def segment(marker, data):
        return b"\xff" + bytes([marker]) + struct.pack(">H", len(data) + 2) + data

    bits = "".join(code(value - 128) for value in colour) + "0000" * 3 * (width * height - 1)
    bits += "1" * (-len(bits) % 8)
    scan = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    frame = struct.pack(">BHHB", 8, height, width, 3) + b"R\x11\0G\x11\0B\x11\0"
    codes = b"\0\0\0\0\x09" + bytes(12) + bytes(range(9))
    start = segment(0xEE, b"Adobe\0\x64\0\0\0\0\0") + segment(0xC3, frame) + segment(0xC4, codes)
    return b"\xff\xd8" + start + segment(0xDA, b"\3R\0G\0B\0\1\0\0") + scan + b"\xff\xd9"


def twelve_bits(file):
    """A JPEG whose frame claims 12 bits a channel."""
    at = file.index(b"\xff\xc0")
    return file[: at + 4] + b"\x0c" + file[at + 5 :]


P3 = rgb_profile(
    (0.51512, 0.2412, -0.00105), (0.29198, 0.69225, 0.04189), (0.1571, 0.06657, 0.78407), table(1024, srgb_curve)
)
ADOBE = rgb_profile((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457), gamma(2.2))
SRGB = rgb_profile(
    (0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.7141), table(1024, srgb_curve)
)
SRGB_4 = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
LINEAR = rgb_profile((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.7141), gamma(1))
GREY = profile(b"GRAY", b"XYZ ", (b"kTRC", gamma(1.8)))
INK = ink_profile()
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
)
RAW_PROFILE = b"Raw profile type exif\0\0" + zlib.compress(
    b"\nexif\n      32\n" + (b"Exif\0\0" + turned_by(6)).hex().encode() + b"\n\0"
)
SRGB_CHROMATICITIES = struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
FLIPPED = SCENE.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
DEEP = np.asarray(SCENE, np.int64) * 257 + np.random.default_rng(1).integers(-100, 100, (270, 340, 3))
DEEP = DEEP.clip(0, 65535)
GREYS = np.asarray(SCENE.convert("L"))[..., None]
PALETTE = (b"PLTE", np.random.default_rng(2).integers(0, 256, 48, dtype=np.uint8).tobytes())
INKS = SCENE.convert("CMYK")
BLACK = Image.merge("CMYK", [*INKS.split()[:3], Image.fromarray((Y * 0.8).astype(np.uint8))])
YCCK = encoded(BLACK, "JPEG", quality=95).replace(b"Adobe\0\x64\0\0\0\0\0", b"Adobe\0\x64\0\0\0\0\2")
AVIF = encoded(SCENE, "AVIF", quality=95, subsampling="4:4:4")
NCLX = AVIF.index(b"colrnclx") + 8
INSET = bytearray(encoded(SCENE.crop((60, 40, 300, 220)).quantize(32), "GIF"))
INSET[6:10] = struct.pack("<HH", 340, 270)
PLACE = INSET.index(b"\x2c", 13 + 3 * (2 << (INSET[10] & 7)))
INSET[PLACE + 1 : PLACE + 5] = struct.pack("<HH", 60, 40)
FINE_X, FINE_Y = np.meshgrid(np.arange(2048), np.arange(1536))
FINE = np.asarray(SCENE.resize((2048, 1536)), float) + 70 * (np.sin(FINE_X * 2.4) + np.sin(FINE_Y * 2.1))[..., None]

PROGRESSIVE = jpeg(image=LARGE, progressive=True)
LAST_SCAN = PROGRESSIVE.rindex(b"\xff\xda")
HERE = Path(__file__).parent  # the files of `cjpeg -sample`: Pillow writes no such sampling

PHOTOS = {
    "jpeg 4:4:4": jpeg(subsampling=0),
    "jpeg 4:2:2, odd size": jpeg(image=LARGE, subsampling=1),
    "jpeg 4:2:0, quality 30": jpeg(image=LARGE, subsampling=2, quality=30),
    "jpeg 4:1:0": (HERE / "sampling_4x2.jpg").read_bytes(),
    "jpeg 2x2,1x2,1x1": (HERE / "sampling_2x2_1x2_1x1.jpg").read_bytes(),
    "jpeg progressive": PROGRESSIVE,
    "jpeg restart markers": jpeg(image=LARGE, restart_marker_blocks=7),
    "jpeg RGB": jpeg(keep_rgb=True),
    "jpeg grey": jpeg(image=LARGE.convert("L")),
    "jpeg fine pattern": jpeg(image=Image.fromarray(FINE.clip(0, 255).astype(np.uint8)), quality=90),
    **{f"jpeg EXIF {n}": jpeg(b"Exif\0\0" + turned_by(n), image=LARGE) for n in (2, 3, 4, 5, 6, 7, 8)},
    "jpeg EXIF as a LONG": jpeg(b"Exif\0\0" + exif((0x112, 4, 1, b"\0\0\0\6"))),
    "jpeg EXIF with an odd value": jpeg(
        b"Exif\0\0" + exif((0x112, 3, 1, b"\0\6"), (0x11A, 10, 1, struct.pack(">ii", -72, 1)))
    ),
    "jpeg XMP 6": jpeg(b"http://ns.adobe.com/xap/1.0/\0" + XMP),
    "jpeg Display P3": jpeg(image=LARGE, icc_profile=P3),
    "jpeg Display P3, EXIF 6": jpeg(b"Exif\0\0" + turned_by(6), image=LARGE, icc_profile=P3),
    "jpeg Adobe RGB": jpeg(icc_profile=ADOBE),
    "jpeg sRGB": jpeg(icc_profile=SRGB),
    "jpeg sRGB of version 4": jpeg(icc_profile=SRGB_4),
    "jpeg linear": jpeg(icc_profile=LINEAR),
    "jpeg broken profile": jpeg(icc_profile=P3[:200]),
    "jpeg with a grey profile": jpeg(icc_profile=GREY),
    "jpeg grey with a grey profile": jpeg(image=LARGE.convert("L"), icc_profile=GREY),
    "jpeg grey with Display P3": jpeg(image=SCENE.convert("L"), icc_profile=P3),
    "jpeg CMYK": encoded(BLACK, "JPEG", quality=95),
    "jpeg CMYK with a profile": encoded(BLACK, "JPEG", quality=95, icc_profile=INK),
    "jpeg CMYK with Display P3": encoded(BLACK, "JPEG", quality=95, icc_profile=P3),
    "jpeg YCCK": YCCK,
    "jpeg without its end": jpeg()[:-2],
    "jpeg with more behind": jpeg() + b"\0more" * 9,
    "jpeg damaged": jpeg()[:-2] + b"\0\1\2\3\xff\xd9",
    "png": png(),
    "png grey": png(image=SCENE.convert("L")),
    "png palette": png(image=SCENE.quantize(50)),
    "png palette, transparent": png(image=SCENE.quantize(50), transparency=7),
    "png RGBA": png(image=FADED),
    "png grey, transparent": png(image=FADED.convert("LA")),
    "png one colour transparent": png((b"tRNS", struct.pack(">3H", 220, 30, 40))),
    "png eXIf 6": png(exif=turned_by(6)),
    "png Raw profile 6": png((b"zTXt", RAW_PROFILE)),
    "png gAMA and cHRM": png((b"gAMA", struct.pack(">I", 45455)), (b"cHRM", SRGB_CHROMATICITIES)),
    "png gAMA 1.8": png((b"gAMA", struct.pack(">I", 55556))),
    "png gAMA 1.0": png((b"gAMA", struct.pack(">I", 100000))),
    "png cICP P3": png((b"cICP", bytes([12, 13, 0, 1]))),
    "png cICP sRGB": png((b"cICP", bytes([1, 13, 0, 1]))),
    "png long text": png((b"zTXt", b"history\0\0" + zlib.compress(b"x" * 2_000_000))),
    "png without its end": png()[:-12],
    "png Display P3, transparent": png(image=FADED, icc_profile=P3),
    "png grey with a grey profile": png(image=SCENE.convert("L"), icc_profile=GREY),
    "png animated": encoded(SCENE, "PNG", save_all=True, append_images=[FLIPPED], default_image=True),
    "png 16 bits": raw_png(DEEP, 16, 2),
    "png 16 bits grey, interlaced": raw_png(DEEP[..., :1], 16, 0, interlaced=True),
    "png 4 bits, interlaced": raw_png(GREYS >> 4, 4, 3, PALETTE, interlaced=True),
    "png 2 bits, one grey transparent": raw_png(GREYS >> 6, 2, 0, (b"tRNS", b"\0\1")),
    "webp": encoded(SCENE, "WEBP", quality=80),
    "webp lossless": encoded(SCENE, "WEBP", lossless=True),
    "webp transparent": encoded(FADED, "WEBP", quality=80),
    "webp lossless, transparent": encoded(FADED, "WEBP", lossless=True),
    "webp EXIF 6": encoded(SCENE, "WEBP", lossless=True, exif=turned_by(6)),
    "webp Display P3": encoded(SCENE, "WEBP", quality=90, icc_profile=P3),
    "webp animated": encoded(SCENE, "WEBP", save_all=True, append_images=[FLIPPED], lossless=True, duration=100),
    "gif": encoded(SCENE.quantize(200), "GIF"),
    "gif animated": encoded(SCENE.quantize(64), "GIF", save_all=True, append_images=[FLIPPED.quantize(64)]),
    "gif inset": bytes(INSET),
    "bmp": encoded(SCENE, "BMP"),
    "avif": AVIF,
    "avif nclx P3": AVIF[:NCLX] + struct.pack(">HHH", 12, 13, 6) + AVIF[NCLX + 6 :],
    "avif turned": encoded(SCENE, "AVIF", quality=95, exif=turned_by(7)),
    "avif transparent": encoded(FADED, "AVIF", quality=95),
    "avif animated": encoded(SCENE, "AVIF", save_all=True, append_images=[FLIPPED], quality=95),
    "jpeg cut off": jpeg()[:9000],
    "jpeg progressive, cut off": jpeg(progressive=True)[:9000],
    "jpeg progressive, its last scan cut off": PROGRESSIVE[:LAST_SCAN] + b"\xff\xd9",
    "jpeg 4:1:0, without its end": (HERE / "sampling_4x2.jpg").read_bytes()[:-2],
    "jpeg lossless": lossless_jpeg(),
    "jpeg 12 bits": twelve_bits(jpeg()),
    "jpeg too small": jpeg(image=SCENE.crop((0, 0, 300, 15))),
    "jpeg too large": (lambda file, at: file[: at + 5] + b"\xff\xf0\xff\xf0" + file[at + 9 :])(
        jpeg(), jpeg().index(b"\xff\xc0")
    ),
    "png cut off": png()[:20_000],
    "png damaged": (lambda file: file[:5000] + bytes([file[5000] ^ 1]) + file[5001:])(png()),
    "png too large": raw_png(np.zeros((1, 1, 1), int), 8, 0).replace(
        chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)),
        chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)),
    ),
    "webp cut off": encoded(SCENE, "WEBP", lossless=True)[:20_000],
    "heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99),
    "an html page": b"<!DOCTYPE html>",
    "nothing": b"",
}  # fmt: skip
