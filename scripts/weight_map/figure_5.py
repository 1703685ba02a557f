"""Figure 5 of the weight map paper: Grad-CAM of the convolutional, the smoothing and the unsharp network.

    python scripts/weight_map/figure_5.py cnn_mnist.standard wm_cnn_mnist.smoothing wm_cnn_mnist.unsharp

Entries are names or folders of the zoo, of one data set. Shows the first test image of each class. The JSON beside
the figure holds, for each network, the share of the map's weight that lies on the `--ink` brightest pixels.
"""

import argparse
import json
from pathlib import Path


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("entries", nargs="+")
    parser.add_argument("--names", nargs="+", help="titles of the columns; the entries' by default")
    parser.add_argument("--images", type=int, default=1_000, help="test images of the shares")
    parser.add_argument("--ink", type=float, default=0.5, help="pixels above this count as ink")
    parser.add_argument("--layer", help="layer of the maps; the last with a picture by default")
    parser.add_argument("--data-dir")
    parser.add_argument("--output", type=Path, default=Path("reports/weight_map/figure_5.png"))
    options = parser.parse_args()

    from keras_robust.analysis import grad_cam, grad_cam_figure, share_on
    from keras_robust.evaluation.metrics import Environment
    from keras_robust.files import write_atomically
    from keras_robust.subject import open_subject

    subjects = [open_subject(each) for each in options.entries]
    x, y, data = subjects[0].test_images(options.images, options.data_dir)
    names = options.names or [subject.name for subject in subjects]
    maps = {
        name: grad_cam(subject.load(), x, y, layer=options.layer)
        for name, subject in zip(names, subjects, strict=True)
    }
    shown = [int((y == label).argmax()) for label in sorted(set(y.tolist()))]
    picture = {name: heat[shown] for name, heat in maps.items()}
    figure = grad_cam_figure(x[shown], picture, [str(label) for label in y[shown]])
    options.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.output, dpi=100)
    results = {
        "title": "Grad-CAM: mean share of a map's weight on pixels above `ink`, and the share of such pixels",
        "ink": options.ink,
        "pixels": float((x.max(-1) > options.ink).mean()),
        "share": {name: share_on(heat, x.max(-1) > options.ink) for name, heat in maps.items()},
        "shown": shown,
        "data": data.model_dump(),
        "environment": Environment.here().model_dump(),
    }
    write_atomically(options.output.with_suffix(".json"), json.dumps(results, indent=1) + "\n")
    print(json.dumps(results["share"]))


if __name__ == "__main__":
    main()
