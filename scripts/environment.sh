# Sourced by the other scripts: makes the virtual environment .venv and activates it.
# PYTHON names another interpreter; VENV another folder.
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PYTHON="${PYTHON:-python3}"
VENV="${VENV:-.venv}"
if ! "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "keras_robust needs Python 3.11 or newer. Received: $("$PYTHON" --version 2>&1)." >&2
    echo "Install one and name it: PYTHON=python3.12 bash $0" >&2
    exit 1
fi
[ -f "$VENV/bin/activate" ] || "$PYTHON" -m venv "$VENV"
. "$VENV/bin/activate"
