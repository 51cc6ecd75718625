"""Copies of a photo are found, and no other photo is taken for one.

    .venv/bin/python -m benchmarks.phase0.copies      (CPU only, one core, 80 seconds)

flowers17_copies.json lists the 125 pairs of one photo among the 17-flower photos: with the same framing, cropped and
mirrored. They were found by MobileNetV2's features (cosine 0.52 and more) and by eye, not by hashes, see
docs/near-duplicates.md. Beside them, every 13th photo is uploaded again as users do. Reported are the shares found by
the split's rule (hashes) and by the baseline's audit (placing one inside the other), and what each takes for a copy
among the 1,000 most similar pairs of other photos (by hash distance). Last line: recall of the same framing, natural
and made, over 0.95; exit 1 below 1 or with a false pair.
"""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from benchmarks.support.loopback import TEST_DATA
from keras_pipeline.core.config.phase0 import Split
from keras_pipeline.data.photo import to_record
from keras_pipeline.evaluation.look_alikes import CORRELATION, correlation
from keras_pipeline.ingest.duplicates import near_duplicates, photo_hashes

LIMITS = {"confirm_bits": Split().confirm_bits, "difference_bits": Split().difference_bits}
GOAL, LOOK_ALIKES, EVERY, AUDITED = 0.95, 1000, 13, 5  # every 13th photo is uploaded again, every 65th placed


def cropped(share: float) -> Callable[[Image.Image], Image.Image]:
    """Without that share of the width and height at the left and top, and half of it at the right and bottom."""

    def crop(image: Image.Image) -> Image.Image:
        width, height = image.size
        return image.crop((share * width, share * height, width * (1 - share / 2), height * (1 - share / 2)))

    return crop


def watermarked(image: Image.Image) -> Image.Image:
    image = image.copy()
    place = image.width // 3, image.height * 9 // 10
    ImageDraw.Draw(image).text(place, "© photos.example.org", fill="white", font_size=image.height / 16)
    return image


def warmed(image: Image.Image) -> Image.Image:
    red, green, blue = image.split()
    return Image.merge("RGB", (red.point(lambda v: v * 1.15), green, blue.point(lambda v: v * 0.75)))


SAME_FRAMING: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG quality 25": lambda image: Image.open(io.BytesIO(jpeg(image, 25))),
    "reduced to 240 px": lambda image: ImageOps.contain(image, (240, 240)),
    "squeezed to a square": lambda image: image.resize((400, 400)),
    "brighter by 30 %": lambda image: ImageEnhance.Brightness(image).enhance(1.3),
    "darker by 40 %": lambda image: ImageEnhance.Brightness(image).enhance(0.6),
    "contrast 1.5": lambda image: ImageEnhance.Contrast(image).enhance(1.5),
    "colours 1.8": lambda image: ImageEnhance.Color(image).enhance(1.8),
    "warmer": warmed,
    "grey": lambda image: image.convert("L").convert("RGB"),
    "sharpened": lambda image: ImageEnhance.Sharpness(image).enhance(3),
    "watermark": watermarked,
    "frame of 2 %": lambda image: ImageOps.expand(image, image.width // 50, "black"),
    "cropped by 1 and 2 %": cropped(0.02),
    "cropped by 2 and 4 %": cropped(0.04),
}
OTHER_FRAMING: dict[str, Callable[[Image.Image], Image.Image]] = {
    "cropped by 4 and 8 %": cropped(0.08),
    "cropped by 10 and 20 %": cropped(0.2),
    "cropped by 15 and 30 %": cropped(0.3),
    "mirrored": ImageOps.mirror,
    "turned by 3 degrees": lambda image: image.rotate(3, Image.Resampling.BICUBIC),
}


def jpeg(image: Image.Image, quality: int = 85) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def record(image: bytes) -> bytes:
    return to_record(image, short_side=256, min_short_side=64, quality=90)[0]


def distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Bits of the phash and of the dhash, of 256 each: int [..., 2]."""
    bits = np.bitwise_count(first ^ second).astype(int)
    return np.stack([bits[..., 1:5].sum(axis=-1), bits[..., 5:].sum(axis=-1)], axis=-1)


def near(bits: np.ndarray) -> np.ndarray:
    return (bits <= list(LIMITS.values())).all(axis=-1)


def natural(records: list[bytes], hashes: np.ndarray) -> tuple[set, float]:
    """Print what is found of the listed pairs; return all of them, and the recall of those with the same framing."""
    kinds = json.loads(Path(__file__).with_name("flowers17_copies.json").read_text())
    recall = {}
    for kind, pairs in kinds.items():
        left, right = np.array(pairs).T - 1
        by_hash = near(distances(hashes[left], hashes[right]))
        placed = (
            np.array([correlation(records[a], records[b]) for a, b in zip(left, right, strict=True)]) >= CORRELATION
        )
        recall[kind] = by_hash.mean()
        shares = f"hashes {by_hash.sum()}, audit {placed.sum()}, either {(by_hash | placed).sum()}"
        print(f"{len(pairs)} natural pairs, {kind}: {shares}")
    return {(a - 1, b - 1) for pairs in kinds.values() for a, b in pairs}, float(recall["same framing"])


def made(files: list[Path], hashes: np.ndarray) -> float:
    """Print what is found of photos that are uploaded again; return the recall of those with the same framing."""
    recalls = []
    for name, change in (SAME_FRAMING | OTHER_FRAMING).items():
        bits, agreements = [], []
        for number, row in enumerate(range(0, len(files), EVERY)):
            with Image.open(files[row]) as image:
                upload = record(jpeg(change(image.convert("RGB"))))
            bits.append(distances(hashes[row], photo_hashes(upload)))
            if number % AUDITED == 0:
                agreements.append(correlation(record(files[row].read_bytes()), upload))
        recall, middle, far = near(np.array(bits)).mean(), np.median(bits, axis=0), np.quantile(bits, 0.95, axis=0)
        placed = np.mean(np.array(agreements) >= CORRELATION)
        spread = f"phash {middle[0]:.0f}, {far[0]:.0f}; dhash {middle[1]:.0f}, {far[1]:.0f}"
        print(f"{len(bits)} made, {name}: hashes {recall:.3f} ({spread}: median, 95 %), audit {placed:.3f}")
        recalls += [recall] * (name in SAME_FRAMING)
    return float(np.mean(recalls))


def main() -> int:
    files = sorted((TEST_DATA / "flowers17/images").glob("*.jpg"))
    records = [record(file.read_bytes()) for file in files]
    hashes = np.array([photo_hashes(image) for image in records])
    copies, natural_recall = natural(records, hashes)
    labels = pd.read_csv(TEST_DATA / "flowers17/labels.csv").sort_values("image")
    found = near_duplicates(hashes, pd.factorize(labels.latin_name)[0], max_bits=Split().near_duplicate_bits, **LIMITS)
    false = {tuple(pair) for pair in found.tolist()} - copies
    left, right = np.triu_indices(len(files), 1)
    closest = np.argsort(distances(hashes[left], hashes[right]).sum(axis=-1), kind="stable")[
        : LOOK_ALIKES + len(copies)
    ]
    others = [pair for pair in zip(left[closest].tolist(), right[closest].tolist(), strict=True) if pair not in copies]
    placed = [pair for pair in others[:LOOK_ALIKES] if correlation(*(records[row] for row in pair)) >= CORRELATION]
    print(f"taken for copies of {len(left):,} pairs: by hashes {sorted(false)}, of 1,000 look-alikes by audit {placed}")
    made_recall = made(files, hashes)
    print(f"same framing: {natural_recall:.3f} of the natural pairs, {made_recall:.3f} of the made ones")
    ratio = min(natural_recall, made_recall) / GOAL
    print(f"{ratio:.2f}")
    return int(ratio < 1 or bool(false) or bool(placed))


if __name__ == "__main__":
    sys.exit(main())
