"""The source: one MongoDB collection, one document a photo."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from pymongo import MongoClient
from pymongo.collection import Collection
from pymongo.errors import ConfigurationError, InvalidURI, OperationFailure, PyMongoError

from keras_pipeline.core.config import Source
from keras_pipeline.core.errors import SourceError
from keras_pipeline.core.provenance import redact

# Well below the ten seconds after which a user believes that nothing happens.
SERVER_SELECTION_SECONDS = 4


@contextlib.contextmanager
def open_collection(source: Source, uri: str) -> Iterator[Collection]:
    """Yields the collection, with a server known to answer. Raises SourceError, or ValueError for what is no URI; the
    password is left out of both.
    """
    shown = redact(uri)
    try:
        wait = SERVER_SELECTION_SECONDS * 1000
        client: MongoClient = MongoClient(
            uri, serverSelectionTimeoutMS=wait, connectTimeoutMS=wait, appname="keras_pipeline"
        )
    except (InvalidURI, ValueError) as error:
        raise ValueError(
            f"source.uri {shown}: {redact(str(error))}; expected mongodb://user:password@host:port/, special "
            "characters of user and password percent-encoded (@ is %40, / is %2F)"
        ) from None
    except PyMongoError as error:  # mongodb+srv:// asks the DNS here
        raise SourceError(f"source.uri {shown}: {redact(str(error))}") from None
    with client:
        try:
            client.admin.command("ping")
            yield client[source.database][source.collection]
        except (ConfigurationError, OperationFailure) as error:
            raise SourceError(f"MongoDB at {shown}: {redact(str(error))}; check user, password and query") from None
        except PyMongoError as error:
            reason = redact(str(error)).split(", Timeout:")[0]
            raise SourceError(f"no MongoDB answers at {shown} ({reason}); start it or correct source.uri") from None


def documents(collection: Collection, source: Source) -> Iterator[dict]:
    """The selected documents in order of _id, only the fields we use, whatever type they have.

    Raises SourceError when there are none.
    """
    names = source.fields.model_dump()
    # Whole sub-documents: nx-27017 finds nothing under a dotted projection.
    fields = {theirs.split(".")[0]: 1 for theirs in names.values()}
    found = False
    # Small batches: an export takes minutes a shard, and a server forgets a cursor that rests for ten.
    for document in collection.find(source.query, fields).sort("_id", 1).batch_size(500):
        found = True
        yield {"sample_id": str(document["_id"]), **{ours: _at(document, theirs) for ours, theirs in names.items()}}
    if not found:
        raise SourceError(
            f"{source.database}.{source.collection} has no document for query {source.query}; "
            "check source.database, source.collection and source.query"
        )


def _at(document: dict, path: str):
    """The value of a field, or of one inside a sub-document (`photo.url`); None where there is none."""
    value = document
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def missing_field(document: dict) -> str | None:
    """Why a document can't be used: `no latin_name`, `no image_url`, or None."""
    for field in ("latin_name", "image_url"):
        value = document[field]
        if not isinstance(value, str) or not value.strip():
            return f"no {field}" if value in (None, "") or isinstance(value, str) else f"{field} is no text"
    return None
