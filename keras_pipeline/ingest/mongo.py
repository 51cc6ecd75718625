"""The source: a MongoDB collection, read once in order of _id."""

from __future__ import annotations

import contextlib
import datetime
import math
import re
import time
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import bson
from bson import Binary, DatetimeMS, DBRef, Decimal128, Int64, ObjectId, Timestamp
from bson.errors import InvalidDocument
from pymongo import MongoClient
from pymongo.collection import Collection
from pymongo.errors import (
    AutoReconnect,
    ConfigurationError,
    CursorNotFound,
    InvalidName,
    InvalidURI,
    OperationFailure,
    PyMongoError,
)

from keras_pipeline.core.config.source import Source
from keras_pipeline.core.errors import SourceError
from keras_pipeline.core.redaction import MONGODB_URI, redact
from keras_pipeline.ingest.entries import Reader

# Well below the ten seconds after which users think that nothing happens.
SERVER_SELECTION_SECONDS = 4
# nx-27017 is silent for ten seconds while it collects 100,000 documents, even to heartbeats, so that pymongo would
# consider it dead. With +srv the server is a real one, and a silent DNS must not take that long.
CONNECT_SECONDS = 20
PAGE = 250_000  # documents per cursor; nx-27017 opens another in 60 µs per document of the whole collection
BATCH = 2000  # documents per message; a server drops a cursor that is idle for ten minutes
NESTED_BATCH = 200  # the same where a document has lists of photos: a species' document is some 20 kB
PAUSES = (1, 2, 4, 8, 16)  # seconds before another try; electing a primary takes about ten
# A server ends a single operation so: its time limit, an index dropped or rebuilt, somebody's killOp or killCursors.
ENDED = {50, 175, 237, 262, 11601}
_USER = "correct the user, the password or authSource in source.uri"
CURES = {  # by MongoDB's code of the error; Atlas has one of its own
    13: "give the user of source.uri the role read on {0}, readWrite for `load`", 18: _USER, 8000: _USER,
}  # fmt: skip
# BSON types as MongoDB sorts them ("Comparison/Sort Order" in its manual), by the names that `$type` knows.
TYPE_ORDER = ("null", "number", "string", "object", "binData", "objectId", "bool", "date", "timestamp")
ID_TYPES = {
    type(None): "null", int: "number", Int64: "number", float: "number", Decimal128: "number", str: "string",
    dict: "object", DBRef: "object", bytes: "binData", Binary: "binData", UUID: "binData", ObjectId: "objectId",
    bool: "bool", datetime.datetime: "date", DatetimeMS: "date", Timestamp: "timestamp",
}  # fmt: skip
NUMBERS = (int, Int64, float)


@contextlib.contextmanager
def open_collection(source: Source, uri: str) -> Iterator[Collection]:
    """Open the collection, after a ping to the server.

    Raises SourceError if the server can't be used, and ValueError for an invalid URI; neither shows the password.
    """
    shown = redact(uri)
    try:
        wait = SERVER_SELECTION_SECONDS * 1000
        # A date in the year 20000, or a byte that is not UTF-8, must not stop reading a million documents.
        client: MongoClient = MongoClient(
            uri, serverSelectionTimeoutMS=wait, appname="keras_pipeline",
            connectTimeoutMS=wait if uri.startswith("mongodb+srv:") else CONNECT_SECONDS * 1000,
            datetime_conversion="DATETIME_AUTO", unicode_decode_error_handler="replace",
        )  # fmt: skip
    except (InvalidURI, ValueError) as error:
        raise ValueError(f"source.uri {shown}: {redact(str(error))}; {MONGODB_URI}") from None
    except PyMongoError as error:  # mongodb+srv:// queries the DNS here
        raise SourceError(f"source.uri {shown}: {redact(str(error))}") from None
    with client:
        try:
            bson.encode(source.query)
        except (OverflowError, InvalidDocument) as error:
            raise ValueError(f"source.query: received {source.query}, which MongoDB can't hold ({error})") from None
        try:
            client.admin.command("ping")
            yield client[source.database][source.collection]
        except OperationFailure as error:
            cure = CURES.get(error.code or 0, "correct source.query if it is to blame, else run again")
            raise SourceError(f"MongoDB at {shown}: {said(error)}; {cure.format(source.database)}") from None
        except ConfigurationError as error:
            raise SourceError(f"MongoDB at {shown}: {said(error)}; correct source.uri") from None
        except InvalidName as error:
            name = f"{source.database}.{source.collection}"
            raise ValueError(f"source.database, source.collection: received {name!r}: {error}") from None
        except PyMongoError as error:
            reason = said(error)
            raise SourceError(f"no MongoDB answers at {shown} ({reason}); start it or correct source.uri") from None


def said(error: PyMongoError) -> str:
    """Return what the driver says, without passwords, its settings and the server's whole answer."""
    return re.split(r", full error: |, Timeout: | \(configured timeouts: ", redact(str(error)))[0]


def count(collection: Collection, source: Source) -> int | None:
    """Count the documents that the query selects; None if the server can find but not count them (`$where`).

    For a whole collection this is the server's estimate, which is off after a crash or while shards move: nx-27017
    counts more slowly than it reads.
    """
    if not source.query:
        return collection.estimated_document_count()
    with contextlib.suppress(OperationFailure):
        return collection.count_documents(source.query)
    return None


def first_documents(collection: Collection, source: Source, n: int) -> list[dict]:
    """Return the first documents that the query selects, whole."""
    with collection.find(source.query, limit=n, batch_size=n) as cursor:
        return list(cursor)


def documents(
    collection: Collection, source: Source, *, page: int = PAGE, reader: Reader | None = None
) -> Iterator[dict]:
    """Yield the photos of the selected documents in order of _id, with only the fields we use, whatever their types.

    After a lost connection or cursor, reading resumes after the last _id: no document is lost, repeated or half read.

    Args:
        page: documents read from one cursor.
        reader: turns documents into photos and counts them; as `source` says if left out.

    Raises SourceError if there is no document.
    """
    reader = reader or Reader(source)
    batch = NESTED_BATCH if source.photos else BATCH
    for document in _each_once(collection, source.query, reader.projection, page, batch):
        yield from reader.photos(document)
    if not reader.documents:
        raise SourceError(
            f"{source.database}.{source.collection} has no document for query {source.query}; "
            "check source.database, source.collection and source.query"
        )


def _each_once(collection: Collection, query: dict, projection: dict, page: int, batch: int) -> Iterator[dict]:
    """Yield every selected document once, over as many cursors as that takes."""
    rests: list[dict] = [{}]  # filters for what is still to be read, in order
    last, total, in_order = None, 0, True
    failures = 0  # in a row
    while rests:
        before, selected = total, {"$and": [query, rests[0]]} if query and rests[0] else query or rests[0]
        try:
            with collection.find(selected, projection, batch_size=batch).sort("_id", 1) as cursor:
                for document in cursor:
                    in_order = in_order and not _is_backwards(last, document["_id"])
                    last, total, failures = document["_id"], total + 1, 0
                    yield document
                    if total - before >= page and in_order:
                        break
                else:
                    del rests[0]
                    if total == before or _is_end(collection, selected, last):
                        continue
                    if not in_order:
                        raise SourceError(f"the server ended its answer early, after {total} documents; run again")
        except (AutoReconnect, OperationFailure) as error:
            if failures == len(PAUSES) or not in_order or not _may_pass(error):
                raise
            time.sleep(PAUSES[failures])
            failures += 1
        rests = _after(last) if total else [{}]


def _may_pass(error: PyMongoError) -> bool:
    """Return whether only the connection or the cursor is lost, not the right to read or the query's sense."""
    return isinstance(error, AutoReconnect | CursorNotFound) or getattr(error, "code", None) in ENDED


def _is_end(collection: Collection, selected: dict, last: Any) -> bool:
    """Return whether all was read: when nx-27017 loses a cursor or its connection, it ends it as if it were done."""
    end = collection.find_one(selected, {"_id": 1}, sort=[("_id", -1)])
    return end is None or end["_id"] == last


def _is_backwards(last: Any, following: Any) -> bool:
    """Return whether numbers are out of order. nx-27017 sorts them as text, so that `$gt` can't resume there."""
    return type(last) in NUMBERS and type(following) in NUMBERS and following < last


def _after(last: Any) -> list[dict]:
    """Return filters, in order, for all _ids after this one: `$gt` for its own type, then each later type.

    Raises SourceError for an _id whose type is not in the order of types.
    """
    kind = ID_TYPES.get(type(last))
    if kind is None:
        raise SourceError(
            f"received the _id {last!r} ({type(last).__name__}), expected a type among {', '.join(TYPE_ORDER)}; "
            "leave such documents out with source.query"
        )
    # Nothing is greater than NaN, which sorts before all other numbers.
    same = {"$gt": last} if last == last else {"$gte": -math.inf}
    later = TYPE_ORDER[TYPE_ORDER.index(kind) + 1 :]
    return [{"_id": same}, *({"_id": {"$type": name}} for name in later)]
