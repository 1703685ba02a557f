#!/usr/bin/env bash
# Makes an environment, installs the package with JAX, trains a plain and two robust nets on scikit-learn's digits,
# attacks them with FGSM, PGD and noise, prints the tables and writes a figure. Nothing is downloaded but packages.
set -euo pipefail
. "$(dirname "$0")/environment.sh"

echo "Installing keras_robust with JAX into $VENV ..."
pip install --quiet --editable ".[jax,plots]"
export KERAS_BACKEND="${KERAS_BACKEND:-jax}"

started=$SECONDS
entries="cnn_digits.standard kap_cnn_digits.noise_sigma0.1 wm_cnn_digits.smoothing"
results=()
for entry in $entries; do
    keras-robust train "zoo/$entry" --output-dir "runs/quickstart/$entry" --overwrite
    keras-robust evaluate "runs/quickstart/$entry" --output "reports/quickstart/$entry" \
        --attacks fgsm,pgd --norm Linf --epsilon 0.05,0.1,0.15 --steps 20
    results+=("reports/quickstart/$entry/metrics.json")
done
keras-robust compare "${results[@]}" --figure reports/quickstart/figure.png
echo "Done in $((SECONDS - started)) s after installation."
