"""The console script `keras-robust`; outside the package, whose import fails where Keras finds no backend."""

import os
import sys
from importlib import import_module
from importlib.util import find_spec


def main() -> None:
    """Runs the command line; a backend that cannot be imported is one message and exit code 2."""
    try:
        import_module("keras")
    except (ImportError, ValueError) as error:
        print(f"Error: {_explain(error)}", file=sys.stderr)
        sys.exit(2)
    from keras_robust.cli import main as run

    run()


def _explain(error: Exception) -> str:
    chosen = os.environ.get("KERAS_BACKEND")
    said = "KERAS_BACKEND is not set" if chosen is None else f"KERAS_BACKEND={chosen!r}"
    installed = [name for name in ("jax", "tensorflow", "torch") if find_spec(name)]
    remedy = (
        f"Choose one that is installed ({', '.join(installed)}): export KERAS_BACKEND={installed[0]}"
        if installed
        else "Install one, pip install 'keras-robust[jax]' ([tensorflow], [torch]), and export KERAS_BACKEND=jax"
    )
    return f"Keras needs a backend, TensorFlow unless told, but: {error}. {said}. {remedy}"


if __name__ == "__main__":
    main()
