#!/usr/bin/env bash
# Builds the wheel, installs it with one backend into a new environment, lists the zoo and loads a small entry.
#   bash scripts/try_wheel.sh [torch==2.13.0]     what to install as the backend; jax by default
set -euo pipefail
cd "$(dirname "$0")/.."
backend="${1:-jax}"
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
. "$folder/venv/bin/activate"
pip wheel --quiet --no-deps --wheel-dir "$folder" .
ls -l "$folder"/*.whl
pip install --quiet "$folder"/*.whl "$backend"
cd "$folder"
export KERAS_BACKEND="${backend%%[=<>]*}"
keras-robust list
python - <<'PYTHON'
import numpy as np
from keras_robust import zoo

print("from", zoo.__file__)
large = []
for entry in zoo.list_entries():
    try:
        model = zoo.load(entry.name)
        height, width, channels = entry.model.input_shape
        logits = model(np.zeros((1, height, width, channels), "float32"))
        print("loaded", entry.name, tuple(logits.shape))
    except (ValueError, OSError) as error:
        large.append(entry.name)
        print("not in the wheel:", error)
if len(large) == len(zoo.list_entries()):
    raise SystemExit("no entry could be loaded")
PYTHON
