"""What an AutoAttack run knows so far, and the file that a broken run goes on from."""

import dataclasses
import json
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from keras_robust.attacks.base import AttackResult
from keras_robust.digests import digest, digest_of_layers, digest_of_weights
from keras_robust.files import write_atomically

_FORMAT = 2
_SHARE = 0.05  # of the run's time may go into writing the state


def fingerprint(
    model: keras.Model,
    x: np.ndarray,
    y: np.ndarray,
    images: np.ndarray,
    *,
    attacks: Sequence[str],
    seed: int,
    individual: int,
) -> dict[str, str]:
    """Describes what a run's result depends on.

    Args:
        model: The model; its seeds do not count, since another process draws others.
        x: Clean images, shape `(images, height, width, channels)`.
        y: Labels, shape `(images,)`.
        images: Index of each image in the evaluated set, shape `(images,)`.
        attacks: The attacks with their options, in order.
        seed: Seed of the evaluation.
        individual: First images on which each attack is measured alone too.

    Returns:
        Strings by what they describe.
    """
    return {
        "format": str(_FORMAT),
        "attacks": "; ".join(attacks),
        "seed": str(seed),
        "individual": str(individual),
        "backend": keras.backend.backend(),
        "images": digest(x),
        "labels": digest(y.astype("int64")),
        "indices": digest(images.astype("int64")),
        "weights": digest_of_weights(model),
        "layers": digest_of_layers(model),
    }


@dataclasses.dataclass
class RunState:
    """What is known after some batches of a run.

    Attributes:
        x_adv: Best adversarial images so far, shape `(images, height, width, channels)`.
        margin: Margin of each, shape `(images,)`; minus infinity where nothing was tried.
        correct: Which clean images are classified correctly, shape `(images,)`.
        broken: Which attack broke which image, shape `(rounds, images)`: the attacks in sequence, then each alone.
        attack: Number of the round under way.
        stage: Its stage under way.
        left: Rows that this stage has still to attack; None before it begins.
        seconds: Time of each round, shape `(rounds,)`.
        forward: Images that went through the model, for each round.
        backward: Images that went through it backwards, for each round.
    """

    x_adv: np.ndarray
    margin: np.ndarray
    correct: np.ndarray
    broken: np.ndarray
    attack: int
    stage: int
    left: np.ndarray | None
    seconds: np.ndarray
    forward: np.ndarray
    backward: np.ndarray
    _saved: tuple[float, float] = (0.0, 0.0)  # when the last save ended, and how long it took

    @classmethod
    def start(cls, x: np.ndarray, correct: np.ndarray, rounds: int) -> "RunState":
        """Returns the state before the first attack."""
        count = len(x)
        return cls(
            x_adv=x.copy(),
            margin=np.full(count, -np.inf, "float32"),
            correct=correct,
            broken=np.zeros((rounds, count), bool),
            attack=0,
            stage=0,
            left=None,
            seconds=np.zeros(rounds),
            forward=np.zeros(rounds, "int64"),
            backward=np.zeros(rounds, "int64"),
        )

    def merge(self, attack: int, rows: np.ndarray, x_adv, margin, wrong) -> None:
        """Takes over what one batch of an attack found, where it is better."""
        best = AttackResult(self.x_adv, self.margin, np.asarray(self.broken.any(axis=0)))
        best.merge(rows, x_adv, margin, wrong)
        self.broken[attack, rows] |= wrong

    def save(self, path: Path, mark: dict[str, str], force: bool = False) -> None:
        """Replaces the file by this state in one step, unless writing would take too much of the run's time."""
        begun = time.perf_counter()
        ended, took = self._saved
        if not force and begun - ended < took * (1 / _SHARE - 1):
            return
        arrays = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if not f.name.startswith("_")}
        left = arrays.pop("left")
        arrays["left"] = np.array([-1]) if left is None else left
        mark_array = np.array(json.dumps(mark))
        write_atomically(path, lambda file: np.savez(file, fingerprint=mark_array, **arrays))
        ended = time.perf_counter()
        self._saved = (ended, ended - begun)

    @classmethod
    def load(cls, path: Path, mark: dict[str, str]) -> "RunState":
        """Reads the state of the same run.

        Raises:
            ValueError: If the file belongs to another run, or cannot be read; it is left as it is.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                found = json.loads(str(file["fingerprint"]))
                names = [f.name for f in dataclasses.fields(cls) if not f.name.startswith("_")]
                arrays = {name: file[name] for name in names}
        except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"State file '{path}' cannot be read as the state of an AutoAttack run: {error}. "
                "It was left as it is. Give another `state_path`, or delete the file to start anew."
            ) from error
        other = [name for name in sorted({*mark, *found}) if found.get(name) != mark.get(name)]
        if other:
            raise ValueError(
                f"State file '{path}' belongs to another run: {', '.join(other)} differ. "
                "It was left as it is. Give another `state_path`, or delete the file to start anew."
            )
        left = arrays.pop("left")
        arrays["left"] = None if left.tolist() == [-1] else left
        arrays["attack"], arrays["stage"] = int(arrays["attack"]), int(arrays["stage"])
        return cls(**arrays)
