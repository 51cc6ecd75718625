#!/usr/bin/env bash
# Keras: a model of one default layer, saved by 3.15, does not open in 3.14, whatever the backend.
#
# Versions: keras 3.14.1 and 3.15.1, jax 0.10.2, numpy 2.4.6, Python 3.11, x86-64. 3.8, 3.10, 3.12 and 3.13 refuse it too.
# Expected: the format is the same (a zip of config.json and weights), the layer is as old as Keras and has its defaults,
#   so that the release before can open the file.
# Seen: 3.15 writes the arguments `input_axes` and `output_axes` of the default initializer into config.json, as null;
#   3.14 stops at them with a TypeError. The other way round works. A file that goes from one machine to another binds
#   both to a release, which neither its name nor the error says; metadata.json inside it does.
# Usage: bash findings/keras_files_need_the_newest_keras.sh     (Python 3.11, 1 GB of disk; exit 1 if it has changed)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export KERAS_BACKEND=jax
cat > probe.py <<'PY'
import sys

import keras

task, file = sys.argv[1:]
if task == "save":
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save(file)
else:
    try:
        keras.saving.load_model(file)
        print(f"keras {keras.__version__} opens {file}")
    except TypeError as error:
        print(f"keras {keras.__version__} refuses {file}: {str(error).splitlines()[-1]}")
PY
for version in 3.14.1 3.15.1; do
  "${PYTHON:-python3.11}" -m venv "$version"
  "$version/bin/pip" install --quiet --disable-pip-version-check "keras==$version" jax==0.10.2 numpy==2.4.6
  "$version/bin/python" probe.py save "by-$version.keras"
done
{
  3.15.1/bin/python probe.py open by-3.14.1.keras
  3.14.1/bin/python probe.py open by-3.15.1.keras
} | tee output
grep -q "^keras 3.15.1 opens by-3.14.1.keras" output && grep -q "^keras 3.14.1 refuses by-3.15.1.keras.*input_axes" output \
  || { echo CHANGED; exit 1; }
echo "as seen"
