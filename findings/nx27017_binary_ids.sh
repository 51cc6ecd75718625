#!/usr/bin/env bash
# nx-27017 (MongoDB's protocol on SQLite): a document whose _id is binary or boolean can't be found by that _id.
#
# Versions: nx-27017 0.8.1, neosqlite 1.17.2, pymongo 4.20.0, Python 3.11.
# Expected: find_one({"_id": value}) returns it, an upsert by _id changes it, and a UUID (binary subtype 4) is read back
#   as one, as on a MongoDB.
# Seen: inserting works and a query by another field finds the document, but by its _id nothing does, and an upsert by
#   _id is refused as a duplicate key. A UUID comes back as plain bytes. A date, a number and a text are found.
# Usage: bash findings/nx27017_binary_ids.sh     (exit 1 if the behaviour has changed)
set -euo pipefail
folder=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3.11}" -m venv env
env/bin/pip install --quiet --disable-pip-version-check nx-27017==0.8.1 neosqlite==1.17.2 pymongo==4.20.0
port=47017
env/bin/python -c 'from nx_27017 import main; main()' --host 127.0.0.1 --port $port --db data.db \
  --log-file nx.log --pid-file nx.pid >server.log 2>&1 &
env/bin/python - $port <<'PYTHON'
import datetime
import sys
import uuid

import pymongo
from bson import Binary
from bson.binary import UUID_SUBTYPE
from pymongo.errors import DuplicateKeyError

client = pymongo.MongoClient("127.0.0.1", int(sys.argv[1]), serverSelectionTimeoutMS=60_000)
values = {
    "UUID": Binary(uuid.UUID(int=5).bytes, UUID_SUBTYPE),
    "bytes": Binary(b"abc"),
    "boolean": True,
    "date": datetime.datetime(2020, 1, 1),
    "number": 7,
    "text": "a",
}
found, refused, same = set(), set(), set()
for kind, value in values.items():
    plants = client.herbarium[kind]
    plants.insert_one({"_id": value, "name": "Viola alba"})
    stored = plants.find_one({"name": "Viola alba"})["_id"]
    if stored == value and type(stored) in (type(value), bytes):
        same.add(kind)
    if plants.find_one({"_id": value}):
        found.add(kind)
    try:
        plants.update_one({"_id": value}, {"$set": {"name": "Viola odorata"}}, upsert=True)
    except DuplicateKeyError:
        refused.add(kind)
print("found by _id:", *sorted(found))
print("upsert by _id refused as a duplicate:", *sorted(refused))
print("read back as stored:", *sorted(same))
odd = {"UUID", "bytes", "boolean"}
as_seen = found == set(values) - odd and refused == odd and "UUID" not in same
print("as seen" if as_seen else "CHANGED")
sys.exit(not as_seen)
PYTHON
