"""Makes the weights of entries smaller.

    python scripts/compress_weights.py zoo/wm_cnn_mnist.unsharp
    python scripts/compress_weights.py zoo/wm_densenet_mnist.smoothing --kernels bfloat16
    keras-robust evaluate zoo/wm_densenet_mnist.smoothing --update-entry

Without --kernels no value changes, and neither do the entry's numbers: its weights get the digest of the new file.
With it, kernels are rounded as the recipe's `training.weights` does at the end of a training. Recipe and log then
say so, and the entry is not valid before it is measured anew.
"""

import argparse
import json
import re
import tempfile
import tomllib
from pathlib import Path

from keras_robust.files import write_atomically
from keras_robust.pipeline import LOG, WEIGHTS
from keras_robust.training.recipe import load_recipe, parse_recipe
from keras_robust.training.tables import KernelType
from keras_robust.training.weights_file import store_weights
from keras_robust.zoo.card import write_card
from keras_robust.zoo.entry import RECIPE, Entry, Weights, sha256


def compress(folder: Path) -> None:
    """Compresses the weights of an entry without loss and keeps `entry.json` and `card.md` true.

    Raises:
        ValueError: If the weights are not those of the entry, or are published on the Hub.
    """
    entry = _own_entry(folder)
    content = _stored(folder, None)
    if len(content) >= entry.weights.bytes:
        return
    write_atomically(folder / WEIGHTS, content)
    entry.model_copy(update={"weights": Weights.of(folder / WEIGHTS)}).save(folder)
    write_card(folder)


def round_kernels(folder: Path, kernels: KernelType) -> None:
    """Rounds the kernels of an entry, and writes into its recipe and its log that they are.

    Raises:
        ValueError: If the weights are not those of the entry, are published on the Hub or rounded already, or do
            not come from its recipe.
    """
    entry, recipe = _own_entry(folder), load_recipe(folder)
    if recipe.training.weights != "float32":
        raise ValueError(
            f"Kernels must be float32 to be rounded. Received: {folder / RECIPE} with weights = "
            f"{recipe.training.weights!r}. Train again to store another type."
        )
    log = json.loads((folder / LOG).read_text(encoding="utf-8"))
    if log["recipe_digest"] != recipe.digest():
        raise ValueError(
            f"{folder / LOG} must be that of {folder / RECIPE}, digest {recipe.digest()}. "
            f"Received: digest {log['recipe_digest']}. Restore the two files."
        )
    text = (folder / RECIPE).read_text(encoding="utf-8")
    table = r"^(\[training\]\n(?:[^\[\n].*\n)*)"
    text = re.sub(table, rf'\1weights = "{kernels}"\n', text, flags=re.MULTILINE)
    changed = parse_recipe(tomllib.loads(text), str(folder / RECIPE))
    if changed.training.weights != kernels:
        raise ValueError(
            f"{folder / RECIPE} must have a line `[training]` of its own, after which the type can be written. "
            "Received: another form of that table."
        )
    log["recipe_digest"] = changed.digest()
    log["kernels_rounded"] = {"to": kernels, "from_sha256": entry.weights.sha256}
    content = _stored(folder, kernels)
    write_atomically(folder / RECIPE, text)
    write_atomically(folder / LOG, json.dumps(log, indent=1) + "\n")
    write_atomically(folder / WEIGHTS, content)


def _own_entry(folder: Path) -> Entry:
    entry = Entry.load(folder)
    if entry.weights.revision is not None:
        raise ValueError(
            f"Weights that are published must stay as they are. Received: {folder}, published as "
            f"{entry.weights.repository}@{entry.weights.revision}. Publish others under another name."
        )
    if sha256(folder / WEIGHTS) != entry.weights.sha256:
        raise ValueError(
            f"{folder / WEIGHTS} must have the SHA-256 of its entry, {entry.weights.sha256}. "
            f"Received: {sha256(folder / WEIGHTS)}. Restore the file, or measure the entry anew."
        )
    return entry


def _stored(folder: Path, kernels: KernelType | None) -> bytes:
    with tempfile.TemporaryDirectory() as work:
        return store_weights(folder / WEIGHTS, Path(work) / WEIGHTS, kernels=kernels).read_bytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("entries", nargs="+", type=Path, metavar="ENTRY", help="Folders of entries.")
    parser.add_argument("--kernels", choices=["float16", "bfloat16"], help="Round kernels to this type.")
    options = parser.parse_args()
    for folder in options.entries:
        try:
            before = (folder / WEIGHTS).stat().st_size
            if options.kernels is None:
                compress(folder)
            else:
                round_kernels(folder, options.kernels)
        except (OSError, ValueError) as error:
            parser.error(str(error))
        print(f"{folder}: {before:,} bytes, now {(folder / WEIGHTS).stat().st_size:,}")


if __name__ == "__main__":
    main()
