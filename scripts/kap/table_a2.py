"""Table A2 of the KAP paper: what kernel average pooling and adversarial training cost, beside a plain network.

    python scripts/kap/table_a2.py --model kap_cnn       # a minute or two
    python scripts/kap/table_a2.py                       # ResNet-18, as the paper

Runs `scripts/benchmark_kap.py` and `scripts/benchmark_training.py`, whose variants take turns, and sets their
ratios beside the paper's; its seconds are those of an A100. Run it on an idle machine, with KERAS_BACKEND set.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from keras_robust.experiments.kap_paper import TABLE_A2

SCRIPTS = Path(__file__).resolve().parents[1]


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18", choices=["resnet18", "kap_cnn"])
    parser.add_argument("--turns", type=int, default=5, help="of adversarial training")
    parser.add_argument("--seconds", type=float, default=10, help="for each comparison of pooling")
    parser.add_argument("--output", type=Path, default=Path("reports/kap/table_a2.json"))
    options = parser.parse_args(arguments)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    kap, adversarial = (options.output.with_suffix(f".{part}.json") for part in ("kap", "at"))
    common = ["--model", options.model]
    backend = os.environ.get("KERAS_BACKEND", "jax")
    run(
        "benchmark_kap.py", *common, "--backends", backend, "--seconds", str(options.seconds), "--output", str(kap)
    )
    turns = ["--turns", str(options.turns), "--steps", "2"]
    run("benchmark_training.py", *common, "--methods", "plain,AT-10", *turns, "--output", str(adversarial))
    results = {
        "model": options.model,
        "ratios": ratios(json.loads(kap.read_text())[backend], json.loads(adversarial.read_text())),
        "parts": {"kap": json.loads(kap.read_text())[backend], "at": json.loads(adversarial.read_text())},
    }
    options.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    for part in (kap, adversarial):
        part.unlink()
    print(f"{'over the plain network':38}{'ours':>8}{'paper':>8}")
    for name, each in results["ratios"].items():
        print(f"{name:38}{each['ours']:8.2f}{each['paper']:8.2f}")
    print(f"Results: {options.output}")


def run(script, *arguments):
    subprocess.run([sys.executable, str(SCRIPTS / script), *arguments], check=True)


def ratios(kap, adversarial):
    """Returns our ratios and the paper's, by name."""
    (seconds, milliseconds), (at, _), (kap_seconds, kap_ms) = (TABLE_A2[key] for key in ("standard", "at", "kap"))

    def ours(step, variant):
        return kap["ratio"][step][variant]["median"]

    return {
        "KAP, training step": {"ours": ours("training", "kernels"), "paper": kap_seconds / seconds},
        "KAP, inference": {"ours": ours("inference", "kernels"), "paper": kap_ms / milliseconds},
        "KAP, inference, folded": {"ours": ours("inference", "folded"), "paper": kap_ms / milliseconds},
        "AT, training step": {
            "ours": adversarial["methods"]["AT-10"]["times_plain_median"],
            "paper": at / seconds,
        },
    }


if __name__ == "__main__":
    main()
