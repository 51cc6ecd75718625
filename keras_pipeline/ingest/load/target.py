"""The collection that `load` writes to: whose it is, documents upserted by _id, and how far a killed load came.

The collection `keras_pipeline_load` of the same database holds a record for each collection that was loaded. It is the
only sign of ownership: the documents themselves stay as they are in the file.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any
from uuid import UUID

from bson.binary import UUID_SUBTYPE, Binary
from pymongo import ReplaceOne, UpdateOne, WriteConcern
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import AutoReconnect, BulkWriteError

from keras_pipeline.core.errors import SourceError
from keras_pipeline.core.redaction import redact
from keras_pipeline.ingest.fields import document_id
from keras_pipeline.ingest.load.rows import Bad, Row
from keras_pipeline.ingest.mongo import PAUSES

RECORDS = "keras_pipeline_load"
BATCH = 500  # documents
BATCH_BYTES = 8_000_000
REFUSED = {11000: "another document has its unique value", 121: "the collection's validation refuses it"}
NOT_HELD = ("is not JSON serializable", "Invalid JSON document")  # nx-27017: of one document, such as one with NaN
NO_UUID = "00000000-0000-0000-0000-000000000000"  # nx-27017's, of every collection
MARK = "keras_pipeline_load"  # field of an empty index that goes with the collection: where there is no UUID
SEEDING = "_seeding"  # what `demo/embedded` adds to the name of a collection that it fills, for a record of that


@dataclasses.dataclass
class Stored:
    """Counts of documents."""

    new: int = 0
    before: int = 0  # that were there, and are now as in the file


def is_loaded(database: Database, collection: str) -> bool:
    """Return whether `load` has put documents into a collection."""
    return database[RECORDS].find_one({"_id": collection}) is not None


class Target:
    """A collection to load into.

    Args:
        into_existing: write into a collection that `load` did not make. Its documents then keep their other fields.

    Raises ValueError for a view, and for a collection with documents that `load` did not make.
    """

    def __init__(self, collection: Collection, *, into_existing: bool) -> None:
        if not collection.write_concern.acknowledged:
            collection = collection.with_options(write_concern=WriteConcern(1))
        self.collection, self._name = collection, collection.name
        self._records = collection.database[RECORDS].with_options(write_concern=collection.write_concern)
        self._made = self._claim(into_existing)
        self._is_nx = (self._existing() or {}).get("uuid") == NO_UUID

    def _claim(self, into_existing: bool) -> bool:
        """Return whether the collection is `load`'s own; make it if it does not exist."""
        record, existing = self._records.find_one({"_id": self._name}), self._existing()
        if existing is None:
            # The record comes first: killed in between, the next call finds an empty collection and its record.
            self._take()
            self.collection.database.create_collection(self._name)
            self._sign((self._existing() or {}).get("uuid"))
            return True
        if existing["type"] != "collection":
            raise ValueError(f"{self._full_name}: received a {existing['type']}, expected a collection to write to")
        made = bool(record and record.get("made"))
        if made and self._is_same(record or {}, existing["uuid"]):
            self._sign(existing["uuid"])
            return True
        # `doctor` and the audit make an empty one on some servers: there is nothing to mix with.
        if (made or not into_existing) and self.collection.find_one({}, {"_id": 1}) is None:
            self._take()
            self._sign(existing["uuid"])
            return True
        if not into_existing:
            raise ValueError(self._not_its_own())
        self._records.update_one({"_id": self._name}, {"$set": {"made": False}}, upsert=True)
        return False

    def _take(self) -> None:
        # nx-27017 gives an upserted replacement another _id if it has none.
        fresh = {"_id": self._name, "made": True, "files": {}}
        self._records.replace_one({"_id": self._name}, fresh, upsert=True)

    def _sign(self, uuid: str | None) -> None:
        """Record what tells the collection from a later one of its name."""
        marked = uuid in (None, NO_UUID)
        if marked:
            self.collection.create_index(MARK)
        self._records.update_one({"_id": self._name}, {"$set": {"uuid": uuid, "marked": marked}})

    def _is_same(self, record: dict, uuid: str | None) -> bool:
        """Return whether no other collection has taken the name since."""
        if "uuid" not in record or record["uuid"] != uuid:
            return False
        if not record.get("marked"):
            return True
        return any(index["key"][0][0] == MARK for index in self.collection.index_information().values())

    def _not_its_own(self) -> str:
        count = f"{self.collection.estimated_document_count():,} documents"
        if self.collection.database[self._name + SEEDING].find_one({"_id": self._name}):
            return (
                f"{self._full_name}: received the {count} of source.demo, with which an earlier command has filled the "
                "embedded server, expected a new collection: both together would be no collection of plants; name "
                "another in source.collection, or give another place: --set root=DIR"
            )
        return (
            f"{self._full_name}: received a collection that `load` did not make ({count}), expected a new one; name "
            "another in source.collection, or add --into-existing: nothing is deleted, and a document with an _id of "
            "the file gets the file's fields"
        )

    @property
    def _full_name(self) -> str:
        return f"source.collection {self.collection.full_name}"

    def _existing(self) -> dict[str, Any] | None:
        """Return {type, uuid} of the collection, as the server tells them; None if it does not exist."""
        for entry in self.collection.database.list_collections():  # nx-27017 does not filter
            if entry["name"] == self._name:
                uuid = entry.get("info", {}).get("uuid")
                uuid = Binary(uuid.bytes, UUID_SUBTYPE) if isinstance(uuid, UUID) else uuid  # one text for both
                return {"type": entry.get("type", "collection"), "uuid": None if uuid is None else str(uuid)}
        return None

    def resume_after(self, file: str) -> int:
        """Return how many rows of a file a killed load has stored; 0 if their last one is no longer there."""
        record = self._records.find_one({"_id": self._name}) or {}
        found = (record.get("files") or {}).get(file)
        if not found or self.collection.find_one({"_id": found["last"]}, {"_id": 1}) is None:
            return 0
        return found["rows"]

    def finish(self) -> None:
        """Forget how far each file came: the next load of the same files stores them anew."""
        self._records.update_one({"_id": self._name}, {"$set": {"files": {}}})

    def store(self, rows: list[Row], *, file: str, read: int, counts: Stored) -> list[Bad]:
        """Upsert documents and note that `read` rows of the file are done; return those that the server refused."""
        if not rows:
            return []
        rows = list(map(self._findable, rows))
        refused = self._with_patience(rows, counts)
        stored = [row for row in rows if row.place not in {bad.place for bad in refused}]
        if stored:
            progress = {"rows": read, "last": stored[-1].document["_id"]}
            self._records.update_one({"_id": self._name}, {"$set": {f"files.{file}": progress}})
        return refused

    def _findable(self, row: Row) -> Row:
        """Return the row with an _id that this server finds again.

        nx-27017 finds no binary _id and no true or false, so that a second load would refuse them all. It also forgets
        that bytes are a UUID. The text gives the same sample_id as the value does on a MongoDB.
        """
        _id = row.document["_id"]
        if not self._is_nx or not isinstance(_id, bytes | UUID | bool):
            return row
        return dataclasses.replace(row, document={**row.document, "_id": document_id(_id)})

    def _with_patience(self, rows: list[Row], counts: Stored) -> list[Bad]:
        for pause in (*PAUSES, None):
            try:
                return self._write(rows, counts)
            except AutoReconnect:  # a primary is elected; storing the same once more changes nothing
                if pause is None:
                    raise
                time.sleep(pause)
        raise AssertionError

    def _write(self, rows: list[Row], counts: Stored) -> list[Bad]:
        try:
            result = self.collection.bulk_write(list(map(self._upsert, rows)), ordered=False)
            found, errors = dict(result.bulk_api_result), []
        except BulkWriteError as error:
            found, errors = dict(error.details), error.details["writeErrors"]
            if grave := [each for each in errors if _refusal(each) is None]:
                reason = redact(str(grave[0].get("errmsg")))
                raise SourceError(
                    f"{self._full_name}: the server stores no more documents ({reason}); free space on its disk or "
                    "check it; then the same command goes on where it stopped"
                ) from None
            if unconfirmed := found["writeConcernErrors"]:
                reason = redact(str(unconfirmed[0].get("errmsg")))
                raise SourceError(
                    f"{self._full_name}: the server stored documents, but not as safely as the write concern asks "
                    f"({reason}); check its replica set; then the same command goes on where it stopped"
                ) from None
        counts.new += found["nUpserted"]
        counts.before += found["nMatched"]
        return [Bad(rows[each["index"]].place, _refusal(each) or "") for each in errors]

    def _upsert(self, row: Row) -> ReplaceOne | UpdateOne:
        key = {"_id": row.document["_id"]}
        if self._made:
            return ReplaceOne(key, row.document, upsert=True)
        fields = {name: value for name, value in row.document.items() if name != "_id"}
        return UpdateOne(key, {"$set": fields}, upsert=True)


def _refusal(error: dict) -> str | None:
    """Return why the server refuses this document and takes others; None if the document is not to blame."""
    said = str(error.get("errmsg"))
    if any(text in said for text in NOT_HELD):
        return f"a value that this server can't hold ({said[:200]})"
    return REFUSED.get(error.get("code", 0))
