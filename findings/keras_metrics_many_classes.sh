#!/usr/bin/env bash
# Keras: two metrics say what nobody expects where classes are many and photos few.
#
# Versions: tensorflow-cpu 2.19.0, keras 3.15.1, Python 3.11, x86-64.
# Expected: a model that gives every class the same score is right in 5 of 9,000 cases by top-5; perfect answers have a
#   macro F1 of 1.
# Seen: top-5 is 1.0, because all classes tied with the fifth count as found (top-1 of the same scores is 0 here). Macro
#   F1 of perfect answers is 0.598 where 5,382 of 9,000 classes have a photo: the others count as 0, and no warning says
#   so. A dead network looks excellent in the first, a test split with a long tail poor in the second.
# Usage: bash findings/keras_metrics_many_classes.sh     (Python 3.11, 2 GB of disk; exit 1 if the behaviour has changed)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3.11}" -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check tensorflow-cpu==2.19.0 keras==3.15.1
cat > probe.py <<'PY'
import sys

import keras
import numpy as np

CLASSES, SEEN = 9000, 5382
labels, equal = np.full(100, 8000), np.zeros((100, CLASSES), np.float32)
top5, top1 = keras.metrics.SparseTopKCategoricalAccuracy(5), keras.metrics.SparseCategoricalAccuracy()
for metric in (top5, top1):
    metric.update_state(labels, equal)
print(f"equal scores of {CLASSES} classes: top-5 {float(top5.result()):.3f}, top-1 {float(top1.result()):.3f}")
f1 = keras.metrics.F1Score(average="macro")
for start in range(0, SEEN, 897):
    perfect = np.zeros((897, CLASSES), np.float32)
    perfect[np.arange(897), start + np.arange(897)] = 1.0
    f1.update_state(perfect, perfect)
print(f"perfect answers for {SEEN} of {CLASSES} classes: macro F1 {float(f1.result()):.3f}")
as_seen = float(top5.result()) == 1.0 and float(top1.result()) == 0.0 and abs(float(f1.result()) - SEEN / CLASSES) < 1e-3
print("as seen" if as_seen else "CHANGED")
sys.exit(not as_seen)
PY
TF_CPP_MIN_LOG_LEVEL=3 venv/bin/python probe.py 2>/dev/null
