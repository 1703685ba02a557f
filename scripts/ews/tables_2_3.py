"""Tables 2 and 3 of the weak subnets paper: ImageNet-C (mCE) and ImageNet-P (mFR), over AlexNet's.

    python scripts/ews/tables_2_3.py standard.vanilla=reports/rn50 standard.ews=reports/rn50_ews \\
        --imagenet-c /data/imagenet-c --imagenet-p /data/imagenet-p --output reports/ews/imagenet

Each argument names a row of the tables (augmentation.method) and a model: a zoo entry, the folder of a training,
or a .keras file that maps pixels in [0, 1] to logits. Folders are the published ones,
`<corruption>/<severity>/<class>/` and `<perturbation>/<class>/`; classes in sorted order. Where the paper's
columns are out of order both readings are printed. What has been measured is kept in the output folder: go on
after a kill with the same command.
"""

import argparse
from pathlib import Path

from keras_robust.experiments.ews_imagenet import measure_imagenet, print_imagenet
from keras_robust.experiments.ews_paper import TABLE_2


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="ROW=MODEL")
    parser.add_argument("--imagenet-c", type=Path, help="folder of ImageNet-C")
    parser.add_argument("--imagenet-p", type=Path, help="folder of ImageNet-P")
    parser.add_argument("--size", type=int, default=224, help="side of the middle of the image that is kept")
    parser.add_argument("--output", type=Path, default=Path("reports/ews/imagenet"))
    options = parser.parse_args(arguments)
    known = [".".join(key) for key in TABLE_2]
    for each in options.models:
        if each.partition("=")[0] not in known or not each.partition("=")[2]:
            parser.error(f"models are ROW=MODEL, with a row of {', '.join(known)}. Received: {each}")
    if options.imagenet_c is None and options.imagenet_p is None:
        parser.error("--imagenet-c or --imagenet-p is needed")
    for each in options.models:
        name, _, model = each.partition("=")
        found = measure_imagenet(
            model, options.output / name, c=options.imagenet_c, p=options.imagenet_p, size=options.size
        )
        print_imagenet(name, found)


if __name__ == "__main__":
    main()
