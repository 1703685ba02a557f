"""What the weight map paper says of robustness and of variance, with our verdict on each.

    python scripts/weight_map/claims.py --results 4=reports/weight_map/table_4_zoo/results.json \
        --entries cnn_mnist.standard wm_cnn_mnist.smoothing wm_cnn_mnist.unsharp

Results are files of `tables.py`, each with the number of its table; entries are names or folders of the zoo, whose
layers' variance amplification is measured under Gaussian noise.
"""

import argparse
import json
from pathlib import Path


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", nargs="*", default=[], help="TABLE=FILE")
    parser.add_argument("--entries", nargs="*", default=[])
    parser.add_argument("--images", type=int, default=1_000, help="test images of the variances")
    parser.add_argument("--sigma", type=float, default=0.1, help="noise of the variances")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data-dir")
    parser.add_argument("--output", type=Path, default=Path("reports/weight_map/claims.json"))
    options = parser.parse_args()

    from keras_robust.experiments.weight_map_claims import claims_report, sentence
    from keras_robust.files import write_atomically
    from keras_robust.subject import open_subject

    pairs = [text.partition("=") for text in options.results]
    found = claims_report(
        [(int(table), json.loads(Path(path).read_text(encoding="utf-8"))) for table, _, path in pairs],
        [open_subject(entry) for entry in options.entries],
        images=options.images,
        sigma=options.sigma,
        seed=options.seed,
        data_dir=options.data_dir,
    )
    print(*map(sentence, found["verdicts"]), sep="\n")
    for name, layers in found["variance"].items():
        for layer in layers:
            numbers = {key: value for key, value in layer.items() if value is not None}
            print(name, *(f"{k} {v:.3g}" if k != "layer" else v for k, v in numbers.items()), sep="  ")
    write_atomically(options.output, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
