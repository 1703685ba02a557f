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

# pytest-xdist waits for ever after a process of a --dist loadfile run was ended by native code (an abort of a library):
# the run is stopped there, and made once more, which its output says.
run_backend() {
    local log status
    log="$(mktemp)"
    KERAS_BACKEND=$1 python -m pytest -n "${WORKERS:-2}" --dist loadfile --max-worker-restart=0 "${@:2}" 2>&1 | tee "$log"
    status="${PIPESTATUS[0]}"
    grep -q "node down: Not properly terminated" "$log" && status=crashed
    rm "$log"
    [ "$status" = 0 ] && return 0
    [ "$status" = crashed ] && return 3
    return 1
}

failed=0
first=--first-backend
export TF_CPP_MIN_LOG_LEVEL=3
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"  # the processes share the cores
for backend in ${BACKENDS:-jax tensorflow torch}; do
    echo "Tests on $backend"
    status=0
    run_backend "$backend" $first "$@" || status=$?
    if [ "$status" = 3 ]; then
        echo "A test process on $backend ended without a Python error (see above). Its tests are run once more."
        status=0
        run_backend "$backend" $first "$@" || status=$?
    fi
    [ "$status" = 0 ] || failed=1
    first=
done
exit $failed
