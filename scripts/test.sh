#!/usr/bin/env bash
# Installs what the tests need and runs all of them on the three backends.
#   bash scripts/test.sh                 everything
#   bash scripts/test.sh -m "not slow"   any pytest arguments
#   BACKENDS="jax torch" bash scripts/test.sh
#   WORKERS=4 bash scripts/test.sh       test files run side by side, on two processes unless told
# Tests on real images run where TFDS_DATA_DIR names a folder of TensorFlow Datasets.
set -euo pipefail
. "$(dirname "$0")/environment.sh"

echo "Installing the package and its test tools into $VENV ..."
pip install --quiet --editable ".[datasets,plots,corruptions,cleverhans,dev]" --requirement scripts/test-requirements.txt

ruff check .
ruff format --check .
mypy

failed=0
first=--first-backend
export TF_CPP_MIN_LOG_LEVEL=3
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"  # the processes share the cores
for backend in ${BACKENDS:-jax tensorflow torch}; do
    echo "Tests on $backend"
    KERAS_BACKEND=$backend python -m pytest -n "${WORKERS:-2}" --dist loadfile $first "$@" || failed=1
    first=
done
exit $failed
