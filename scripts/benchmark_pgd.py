"""Times PGD-40 against torchattacks, Foolbox, ART and cleverhans; run it on an idle machine.

    python scripts/benchmark_pgd.py kap_cnn_cifar10.noise_sigma0.1 --epsilon 0.01 --images 100

Each of the others attacks a hand-written PyTorch copy of the same weights, parameters frozen: its best case.
`wrapped` is the robust accuracy that it finds on our own model as a `torch.nn.Module`. One table: tool, median
seconds of several runs after one that compiles, and the robust accuracy, which must be about the same.
"""

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
import time
from pathlib import Path

REPEATS = 5
STEPS = 40
TOOLS = {
    "torchattacks": "torchattacks",
    "foolbox": "foolbox",
    "art": "adversarial-robustness-toolbox",
    "cleverhans": "cleverhans",
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("entry", help="zoo entry, folder of a training, or .keras file")
    parser.add_argument("--epsilon", type=float, default=8 / 255)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--backends", nargs="+", default=["jax", "tensorflow", "torch"])
    parser.add_argument("--tools", nargs="+", default=list(TOOLS))
    parser.add_argument("--dataset", help="data set of a .keras file")
    parser.add_argument("--data-dir")
    parser.add_argument("--output", type=Path, default=Path("benchmark_pgd.json"))
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        run_part(options)
        return
    rows = []
    for part in (*options.tools, *options.backends):
        env = {**os.environ, "KERAS_BACKEND": "torch" if part in TOOLS else part}
        subprocess.run([sys.executable, __file__, *sys.argv[1:], "--part", part], env=env, check=True)
        path = options.output.with_suffix(f".{part}.partial")
        rows.append(json.loads(path.read_text(encoding="utf-8")))
        path.unlink()
    report(options, rows)


def run_part(options):
    from keras_robust.evaluation.metrics import code_commit
    from keras_robust.subject import open_subject

    subject = open_subject(options.entry, dataset=options.dataset)
    x, y, data = subject.test_images(options.images, options.data_dir)
    model = subject.load()
    row = {"tool": options.part, "data": data.model_dump(), "code_commit": code_commit()}
    row |= ours(model, x, y, options) if options.part in options.backends else theirs(model, x, y, options)
    options.output.with_suffix(f".{options.part}.partial").write_text(json.dumps(row), encoding="utf-8")


def median_seconds(run):
    run()
    seconds = []
    for _ in range(REPEATS):
        begun = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begun)
    return sorted(seconds)[REPEATS // 2]


def ours(model, x, y, options):
    from keras_robust.attacks import PGD

    attack = PGD("Linf", options.epsilon, step_size=options.epsilon / 10, steps=STEPS)
    seconds = median_seconds(lambda: attack(model, x, y, seed=0, batch_size=len(x)))
    x_adv = attack(model, x, y, seed=0, batch_size=len(x))
    robust = float((model.predict(x_adv, verbose=0).argmax(-1) == y).mean())
    return {"version": importlib.metadata.version("keras"), "seconds": seconds, "robust": robust}


def theirs(model, x, y, options):
    import torch

    from keras_robust.backend.torch_copy import native_torch_copy
    from keras_robust.backend.torch_module import as_torch_module

    images = torch.tensor(x).permute(0, 3, 1, 2).contiguous()
    labels = torch.tensor(y, dtype=torch.long)
    found = {"version": importlib.metadata.version(TOOLS[options.part])}
    for name, network in (("native", native_torch_copy(model)), ("wrapped", as_torch_module(model))):
        attack = TOOL[options.part](network, options.epsilon, images, labels)
        if name == "native":
            found["seconds"] = median_seconds(attack)
        x_adv = attack()
        with torch.no_grad():
            robust = float((network(x_adv).argmax(1) == labels).float().mean())
        found["robust" if name == "native" else "wrapped"] = robust
    return found


def torchattacks(network, epsilon, images, labels):
    import torchattacks

    attack = torchattacks.PGD(network, eps=epsilon, alpha=epsilon / 10, steps=STEPS, random_start=True)
    return lambda: attack(images, labels)


def foolbox(network, epsilon, images, labels):
    import foolbox

    wrapped = foolbox.PyTorchModel(network, bounds=(0, 1), device="cpu")
    attack = foolbox.attacks.LinfPGD(abs_stepsize=epsilon / 10, steps=STEPS, random_start=True)
    return lambda: attack(wrapped, images, labels, epsilons=epsilon)[1]


def art(network, epsilon, images, labels):
    import torch
    from art.attacks.evasion import ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    classifier = PyTorchClassifier(
        network,
        torch.nn.CrossEntropyLoss(),
        tuple(images.shape[1:]),
        10,
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )
    attack = ProjectedGradientDescentPyTorch(
        classifier,
        eps=epsilon,
        eps_step=epsilon / 10,
        max_iter=STEPS,
        num_random_init=1,
        batch_size=len(images),
        verbose=False,
    )
    return lambda: torch.tensor(attack.generate(images.numpy(), labels.numpy()))


def cleverhans(network, epsilon, images, labels):
    import numpy as np
    from cleverhans.torch.attacks.projected_gradient_descent import projected_gradient_descent

    rest = {"clip_min": 0.0, "clip_max": 1.0, "y": labels, "sanity_checks": False}
    return lambda: projected_gradient_descent(
        network, images, epsilon, epsilon / 10, STEPS, np.inf, **rest
    ).detach()


TOOL = {"torchattacks": torchattacks, "foolbox": foolbox, "art": art, "cleverhans": cleverhans}


def report(options, rows):
    best = min(row["seconds"] for row in rows if row["tool"] in TOOLS)
    print(f"PGD-{STEPS}, Linf {options.epsilon:.4g}, {options.entry}, {options.images} images, one batch")
    print(f"{'tool':14}{'version':>10}{'seconds':>10}{'of best':>10}{'robust':>10}{'wrapped':>10}")
    for row in rows:
        row["of_best_other"] = row["seconds"] / best
        wrapped = f"{row['wrapped']:10.3f}" if "wrapped" in row else ""
        print(
            f"{row['tool']:14}{row['version']:>10}{row['seconds']:10.3f}{row['of_best_other']:10.2f}"
            f"{row['robust']:10.3f}{wrapped}"
        )
    content = {"entry": options.entry, "epsilon": options.epsilon, "images": options.images, "steps": STEPS}
    options.output.write_text(json.dumps(content | {"rows": rows}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
