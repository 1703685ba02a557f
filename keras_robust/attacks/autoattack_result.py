"""What an AutoAttack run found, with its flags and its cost."""

import dataclasses
import json
import platform
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_robust import backend
from keras_robust.attacks.autoattack_state import RunState
from keras_robust.attacks.repeated import RepeatedAccuracy
from keras_robust.attacks.sanity import Flag


@dataclasses.dataclass(frozen=True)
class AutoAttackResult:
    """Accuracies are fractions of all images.

    Attributes:
        norm: Shape of the ball.
        epsilon: Its radius in pixel units.
        version: Version of AutoAttack.
        attacks: Each attack with its options, in order, by name.
        clean_accuracy: Accuracy on the clean images.
        robust_accuracy: Accuracy on the adversarial images, classified again at the end. For a randomised model
            the share that no attack broke in the pass that checked it; see `repeated`.
        accuracy_after: Accuracy that each attack left, in order, after `"clean"`.
        individual: Accuracy under each attack alone, on all or the first images; empty unless asked for.
        repeated: For a randomised model, its accuracy on `x_adv` over several evaluations, else None.
        x_adv: Adversarial images, shape `(images, height, width, channels)`; the clean image where that is
            misclassified, the attacked point of largest margin where no attack succeeded.
        robust: Which images no attack broke, shape `(images,)`.
        flags: What a reader of the accuracy has to know. Severity `"warning"`: the accuracy may be too high.
        cost: Seed, versions, device, passes forwards and backwards (of one image each), and seconds: in all, of
            each attack in sequence (`"attacks"`), and of what its accuracy alone took on top (`"individual"`).
    """

    norm: str
    epsilon: float
    version: str
    attacks: dict[str, str]
    clean_accuracy: float
    robust_accuracy: float
    accuracy_after: dict[str, float]
    individual: dict[str, float]
    repeated: RepeatedAccuracy | None
    x_adv: np.ndarray
    robust: np.ndarray
    flags: list[Flag]
    cost: dict[str, Any]

    @property
    def warnings(self) -> list[Flag]:
        """The flags that a strict evaluation fails on."""
        return [flag for flag in self.flags if flag.severity == "warning"]

    def to_dict(self) -> dict[str, Any]:
        """Returns everything but the images, as JSON knows it."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "x_adv"}
        return fields | {
            "images": len(self.x_adv),
            "robust": [bool(each) for each in self.robust],
            "flags": [dataclasses.asdict(flag) for flag in self.flags],
            "repeated": None if self.repeated is None else dataclasses.asdict(self.repeated),
        }

    def to_json(self, path: str | Path | None = None) -> str:
        """Returns `to_dict` as JSON text, and writes it where a path is given."""
        text = json.dumps(self.to_dict(), indent=2, default=float)
        if path is not None:
            Path(path).write_text(text + "\n", encoding="utf-8")
        return text


def cost_label(state: RunState, names: list[str], seed: int, batch_size: int) -> dict[str, Any]:
    """Returns what a run cost.

    Args:
        state: The finished run.
        names: Names of its attacks.
        seed: Its seed.
        batch_size: Images a pass.

    Returns:
        The seed, versions, device and batch size; passes and seconds, in total and for each attack: in sequence,
        and on top for its accuracy alone.
    """
    from keras_robust import __version__

    each = [
        {
            "seconds": round(float(seconds), 3),
            "forward_passes": int(forward),
            "backward_passes": int(backward),
        }
        for seconds, forward, backward in zip(state.seconds, state.forward, state.backward, strict=True)
    ]
    return {
        "seed": seed,
        "batch_size": batch_size,
        "backend": keras.backend.backend(),
        "device": backend.device_name(),
        "versions": {
            "keras_robust": __version__,
            "keras": keras.__version__,
            keras.backend.backend(): backend.VERSION,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "seconds": round(float(state.seconds.sum()), 3),
        "forward_passes": int(state.forward.sum()),
        "backward_passes": int(state.backward.sum()),
        "attacks": dict(zip(names, each[: len(names)], strict=True)),
        "individual": dict(zip(names, each[len(names) :], strict=False)),
    }
