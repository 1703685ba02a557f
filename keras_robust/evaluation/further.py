"""Measurements beside attacks and noise: certified accuracy, and accuracy under common corruptions."""

import dataclasses
import functools
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import stats

from keras_robust.certification.smoothing import SmoothedClassifier, check_alpha, check_sigma
from keras_robust.certification.state import SECONDS
from keras_robust.checks import check_choice, check_positive_integer
from keras_robust.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from keras_robust.corruptions.libraries import pillow
from keras_robust.evaluation.describe import describe, short
from keras_robust.evaluation.metrics import CORRUPTIONS_MEAN
from keras_robust.prediction import Predictor

_LEVEL = 0.95


@dataclasses.dataclass(frozen=True)
class Certified:
    """Certified accuracy of the smoothed classifier: images right with a certified radius of at least so much.

    An image on which it abstains counts as wrong.

    Args:
        sigma: Standard deviation of the noise, in pixel units.
        radii: L2 radii in pixel units.
        n: Noisy copies that bound the probability of the class.
        images: First images to certify; all where there are fewer.
        n0: Noisy copies that select the class.
        alpha: Probability that a certificate is wrong.

    Raises:
        ValueError: If an option is out of range.

    Reference:
        Cohen et al., 2019, https://arxiv.org/abs/1902.02918 (section 4)
    """

    sigma: float
    radii: Sequence[float]
    n: int = 100_000
    images: int = 500
    n0: int = 100
    alpha: float = 0.001

    def __post_init__(self):
        object.__setattr__(self, "radii", tuple(float(radius) for radius in self.radii))
        if not self.radii or min(self.radii) < 0:
            raise ValueError(f"`radii` must hold L2 radii of at least 0. Received: radii={self.radii!r}.")
        check_sigma(self.sigma)
        check_alpha(self.alpha)
        for name in ("n", "n0", "images"):
            check_positive_integer(name, getattr(self, name))

    def __call__(self, model: Any, x: np.ndarray, y: np.ndarray, **options: Any) -> dict[float, np.ndarray]:
        """Returns for each radius which images are certified at it and right, shape `(images,)`.

        Where the `n0` copies select a wrong class, the `n` copies could not change the answer and are not drawn.

        Args:
            model: Keras model that returns logits.
            x: Images, shape `(images, height, width, channels)`, in [0, 1].
            y: Integer labels, shape `(images,)`.
            **options: Of `SmoothedClassifier.certify`: `batch_size`, `seed`, `output`, `progress`.
        """
        classes = Predictor.of(model).predict(x[:2], 2).shape[1]
        smoothed = SmoothedClassifier(model, self.sigma, classes)
        found = smoothed.certify(x, y=y, n0=self.n0, n=self.n, alpha=self.alpha, **options)
        return {radius: (found.prediction == y) & (found.radius >= radius) for radius in self.radii}

    def measure(self, job: Any) -> None:
        """Adds a number for each radius to an evaluation under way."""
        count = min(self.images, len(job.x))
        name = f"certified, sigma {short(self.sigma)}"
        # Counts are of one sigma and n, of whatever images and radii.
        options = describe(self)
        counts = {each: options[each] for each in ("sigma", "n0", "n")}
        meter = _Meter(job, json.dumps(options, sort_keys=True))

        def progress(done, images, copies, of_copies):
            meter.keep_now_and_then(done)
            job.progress(name, done, images, 0.0, f"copy {copies} of {of_copies}")

        try:
            found = self(
                job.model,
                job.x[:count],
                job.y[:count],
                batch_size=min(1000, self.n),
                seed=job.seed,
                output=job.own_state(name.replace(",", ""), counts),
                progress=progress,
            )
        finally:
            seconds, passes = meter.keep(count)
        for radius, correct in found.items():
            job.add(
                f"{name}, L2 {short(radius)}",
                "certified",
                correct,
                norm="L2",
                epsilon=radius,
                sigma=float(self.sigma),
                attack=options,
                seconds=seconds,
                cost=passes,
            )


class _Meter:
    """Time and passes of a measurement that resumes by itself, kept in the state of the evaluation.

    Args:
        job: The evaluation under way.
        key: What is measured.
    """

    def __init__(self, job: Any, key: str):
        self.job, self.key = job, key
        _, _, self.seconds, self.forward, _ = job.state.get(key, job.clean)
        self.start = self.kept = time.perf_counter()
        self.before = job.predictor.forward_passes

    def keep(self, done: int) -> tuple[float, dict[str, int]]:
        """Writes and returns the seconds and passes of this run and of those before it."""
        self.kept = time.perf_counter()
        seconds = self.seconds + self.kept - self.start
        forward = self.forward + self.job.predictor.forward_passes - self.before
        self.job.state.put(self.key, self.job.clean, done, seconds, forward, 0)
        return round(seconds, 3), {"forward": forward, "backward": 0}

    def keep_now_and_then(self, done: int) -> None:
        """Does so if the last time is some seconds ago."""
        if time.perf_counter() - self.kept >= SECONDS:
            self.keep(done)


@dataclasses.dataclass(frozen=True)
class _OneCorruption:
    """Names one set of corrupted images in the state of an evaluation."""

    constants: str
    name: str
    severity: int


@dataclasses.dataclass(frozen=True)
class Corrupted:
    """Accuracy under the 15 common corruptions at 5 severities, generated from the images.

    Args:
        constants: `"cifar"` for the severities of CIFAR-10-C, `"imagenet"` for those of ImageNet-C.

    Raises:
        ImportError: If Pillow is not installed.

    Reference:
        Hendrycks and Dietterich, 2019, https://arxiv.org/abs/1903.12261
    """

    constants: str = "cifar"

    def __post_init__(self):
        check_choice("constants", self.constants, ("cifar", "imagenet"))
        pillow()  # some of the corruptions need it, after minutes of the others

    def __call__(
        self, right: Callable[[np.ndarray, str, int], np.ndarray], x: np.ndarray, *, seed: int
    ) -> dict[str, np.ndarray]:
        """Returns for each corruption which images are right at each severity, shape `(severities, images)`.

        Args:
            right: `(images, corruption, severity) -> booleans`, shape `(images,)`.
            x: Images, shape `(images, height, width, channels)`, in [0, 1].
            seed: Seed of the corruptions.
        """
        return {
            name: np.stack(
                [
                    right(corrupt(x, name, severity, seed=seed, constants=self.constants), name, severity)
                    for severity in SEVERITIES
                ]
            )
            for name in CORRUPTIONS
        }

    def check(self, num_classes: int, shape: tuple[int, ...]) -> None:
        """Raises `ValueError` where images of that shape cannot be corrupted."""
        corrupt(np.zeros((1, *shape), "float32"), CORRUPTIONS[0], SEVERITIES[0], constants=self.constants)

    def measure(self, job: Any) -> None:
        """Adds a number for each corruption and their mean to an evaluation under way."""
        options, rows = describe(self), np.arange(len(job.x))
        spent: dict[str, list[dict[str, Any]]] = {}

        def right(x, name, severity):
            one = _OneCorruption(self.constants, name, severity)
            step = functools.partial(lambda images, part: job.right(images[part], job.y[part]), x)
            correct, cost = job.measure(one, f"{name} {severity}", rows, len(rows), step)
            spent.setdefault(name, []).append(cost)
            return correct

        found = self(right, job.x, seed=job.seed)
        parts = {f"corruption {name}": [name] for name in found} | {CORRUPTIONS_MEAN: list(found)}
        for title, names in parts.items():
            correct = np.concatenate([found[name] for name in names])
            costs = [each for name in names for each in spent[name]]
            job.add(
                title,
                "corruption",
                correct.reshape(-1),
                interval=interval_over_images(correct),
                attack=options | {"corruptions": names},
                seconds=round(sum(each["seconds"] for each in costs), 3),
                cost={key: sum(each["cost"][key] for each in costs) for key in ("forward", "backward")},
            )


def interval_over_images(correct: np.ndarray) -> tuple[float, float]:
    """Returns the 95 % interval of a mean over copies of the same images: copies of one image are not independent.

    Args:
        correct: Booleans, shape `(copies, images)`.

    Returns:
        Ends of the normal interval of the mean over images of each image's share.
    """
    shares = correct.mean(axis=0)
    half = stats.norm.ppf((1 + _LEVEL) / 2) * shares.std(ddof=min(1, len(shares) - 1)) / np.sqrt(len(shares))
    return max(float(shares.mean() - half), 0.0), min(float(shares.mean() + half), 1.0)
