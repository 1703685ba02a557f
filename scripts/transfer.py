"""Attacks every model with images crafted on every model (Table A3 of the KAP paper).

    python scripts/transfer.py cnn_cifar10.standard cnn_cifar10.noise_sigma0.1 kap_cnn_cifar10.noise_sigma0.1 \
        --attack autoattack --norm L2 --epsilon 1 --images 100 --output reports/transfer.json

Writes the table and, beside it, the figure. A run that was killed goes on with the models it has not attacked yet.
"""

import argparse
import shutil
from pathlib import Path


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("entries", nargs="+", help="zoo entries or folders of trainings, of one data set")
    parser.add_argument("--attack", default="autoattack")
    parser.add_argument("--norm", default="L2")
    parser.add_argument("--epsilon", type=float, default=1.0)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=250)
    parser.add_argument("--data-dir")
    parser.add_argument("--output", type=Path, default=Path("reports/transfer.json"))
    options = parser.parse_args()

    from keras_robust.evaluation.protocol import make_attacks
    from keras_robust.evaluation.transfer import save_transfer_figure, save_transfer_table, transfer_table
    from keras_robust.subject import open_subject

    subjects = [open_subject(each) for each in options.entries]
    if len({each.dataset for each in subjects}) != 1:
        parser.error("the models must share one data set")
    x, y, data = subjects[0].test_images(options.images, options.data_dir)
    (attack,) = make_attacks(options.attack, norm=options.norm, epsilon=options.epsilon)
    run = f"{options.attack}_{options.norm}_{options.epsilon:g}_{len(y)}_{options.seed}"
    state = options.output.with_suffix(f".{run}.partial")
    table = transfer_table(
        {each.name: each.load() for each in subjects},
        attack,
        x,
        y,
        data=data,
        seed=options.seed,
        batch_size=options.batch_size,
        state=state,
    )
    options.output.parent.mkdir(parents=True, exist_ok=True)
    save_transfer_table(table, options.output)
    save_transfer_figure(table, options.output.with_suffix(".png"))
    shutil.rmtree(state)
    print(f"{'crafted on':40}" + "".join(f"{name[-28:]:>30}" for name in table["accuracy"]))
    for source, row in table["accuracy"].items():
        print(f"{source:40}" + "".join(f"{100 * value:30.1f}" for value in row.values()))
    print(f"Table: {options.output}. Figure: {options.output.with_suffix('.png')}")


if __name__ == "__main__":
    main()
