"""TFRecord files and the tf.train.Example message without TensorFlow, whose import alone takes 0.8 GB and seconds.

A record is: length (uint64, little endian), masked CRC-32C of the length, data, masked CRC-32C of the data
(tensorflow/core/lib/io/record_writer.h). Example is tensorflow/core/example/{example,feature}.proto.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import google_crc32c
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from keras_pipeline.core.errors import BrokenArtefact

OVERHEAD = 16  # bytes a record: length, its CRC, the data's CRC
MAX_RECORD = 1 << 30  # bytes; a larger length is damage that happens to match its CRC


def masked_crc(data: bytes) -> int:
    """Return the CRC-32C of the data, masked as the TFRecord format requires."""
    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def frame(data: bytes) -> bytes:
    """Return one record as stored in the file."""
    length = struct.pack("<Q", len(data))
    return b"".join((length, struct.pack("<I", masked_crc(length)), data, struct.pack("<I", masked_crc(data))))


def read_records(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield (offset of the data in the file, data) of each record in order, checking both CRCs.

    Raises:
        BrokenArtefact: naming the file and the byte at which it is damaged.
        OSError: if it can't be opened.
    """
    with path.open("rb") as file:
        offset = 0
        while head := file.read(12):
            length = struct.unpack("<Q", head[:8])[0] if len(head) == 12 else MAX_RECORD
            if length >= MAX_RECORD or struct.pack("<I", masked_crc(head[:8])) != head[8:]:
                raise BrokenArtefact(f"{path}: corrupt shard at byte {offset}")
            data, crc = file.read(length), file.read(4)
            if struct.pack("<I", masked_crc(data)) != crc:
                raise BrokenArtefact(f"{path}: corrupt shard at byte {offset}")
            yield offset + 12, data
            offset += length + OVERHEAD


class Writer:
    """Append records to one file; `close` makes sure that they are on disk."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self.n = 0
        self.size = 0  # bytes

    def add(self, data: bytes) -> None:
        """Append one record."""
        self.size += self._file.write(frame(data))
        self.n += 1

    def close(self) -> None:
        """Flush to the disk and close."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def abandon(self) -> None:
        """Close the file without checking that its records are on disk; harmless after `close`."""
        with contextlib.suppress(OSError):  # On a full disk the flush fails.
            self._file.close()


def _example_class() -> type:
    """Declare tf.train.Example in a separate pool, because TensorFlow's may be loaded in this process too."""
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="tensorflow", syntax="proto3")
    label = descriptor_pb2.FieldDescriptorProto.Label
    kind = descriptor_pb2.FieldDescriptorProto.Type

    def field(
        message: descriptor_pb2.DescriptorProto, name: str, number: int, *, repeated: bool = False,
        type: Any = kind.TYPE_MESSAGE, **options: Any,
    ) -> None:  # fmt: skip
        cardinality = label.LABEL_REPEATED if repeated else label.LABEL_OPTIONAL
        message.field.add(name=name, number=number, type=type, label=cardinality, **options)

    for name, scalar in (
        ("BytesList", kind.TYPE_BYTES),
        ("FloatList", kind.TYPE_FLOAT),
        ("Int64List", kind.TYPE_INT64),
    ):
        field(file.message_type.add(name=name), "value", 1, repeated=True, type=scalar)
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, name in enumerate(("bytes_list", "float_list", "int64_list"), start=1):
        type_name = f".tensorflow.{name.title().replace('_', '')}"
        field(feature, name, number, type_name=type_name, oneof_index=0)
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    field(entry, "key", 1, type=kind.TYPE_STRING)
    field(entry, "value", 2, type_name=".tensorflow.Feature")
    field(features, "feature", 1, repeated=True, type_name=".tensorflow.Features.FeatureEntry")
    field(file.message_type.add(name="Example"), "features", 1, type_name=".tensorflow.Features")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.Example"))


Example = _example_class()
