"""The one attack contract.

Randomness of an evaluation is drawn with NumPy from (seed, image index, stream), one image at a time: an image's
result depends neither on the backend, nor on the batch size, nor on which other images are attacked with it.
"""

import abc
import dataclasses
from collections.abc import Iterator, Sequence

import keras
import numpy as np
from keras import ops

from keras_robust.checks import (
    Tensor,
    check_finite,
    check_images,
    check_indices,
    check_labels,
    check_logits,
    check_positive_integer,
)
from keras_robust.prediction import Predictor as Predictor
from keras_robust.prediction import image_rng as image_rng
from keras_robust.prediction import padded_batches as padded_batches


def bucketed_batches(rows: np.ndarray, batch_size: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Splits rows into batches of a few fixed sizes, so that compiled attacks are traced a few times only.

    Full batches first; the rest goes to batches of 3/4, 1/2, 1/4 and 1/8 of `batch_size`, the largest first, or to
    one batch that holds it all where that costs less.

    Returns:
        Pairs of the rows of a batch and the same rows padded, by copies of the last one, to the fixed size.
    """
    sizes = sorted({-(-batch_size * eighths // 8) for eighths in (8, 6, 4, 2, 1)})
    full, rest = divmod(len(rows), batch_size)
    batches = []
    for holds in [batch_size] * full + _cover(rest, sizes):
        part, rows = rows[:holds], rows[holds:]
        batches.append((part, np.pad(part, (0, holds - len(part)), mode="edge")))
    return batches


_ROWS_OF_A_PASS = 5  # a pass of a small network on a CPU costs as much as this many rows, beside its rows


def _cover(count: int, sizes: list[int]) -> list[int]:
    """Returns sizes that hold so many rows: the smallest that holds all, or, if cheaper, the next one and more."""
    if not count:
        return []
    alone = [next(size for size in sizes if size >= count)]
    smaller = [size for size in sizes if size < count]
    if not smaller:
        return alone
    split = [smaller[-1], *_cover(count - smaller[-1], sizes)]
    return min(alone, split, key=lambda each: sum(each) + _ROWS_OF_A_PASS * len(each))


class Attack(abc.ABC):
    """Search for a misclassified image near a clean one.

    Subclasses are frozen dataclasses whose fields are the options; they define `draw` and `search`. An attack
    of several restarts or target classes has as many stages; a later stage sees only the rows not broken yet.

    Call arguments:
        model: Keras model that returns logits, shape `(batch, classes)`.
        x: Clean images, shape `(images, height, width, channels)`, in [0, 1]; NumPy or backend tensors.
        y: Integer labels, shape `(images,)`.
        seed: Integer seed of everything random.
        batch_size: Images a pass; results do not depend on it beyond rounding.
        indices: Index of each image in the evaluated set, shape `(images,)`, where `x` is a part of it;
            `range(images)` by default. An image's random numbers depend on its index.

    Returns:
        NumPy array of the shape of `x`, within the ball and in [0, 1]. Success is for the caller to recompute
        from predictions.

    Raises:
        ValueError: If an argument has the wrong shape, type or range, or the model does not return logits, or
            returns NaN or infinity on an image found.
    """

    minimal = False
    """Whether the attack looks for the closest adversarial image, and so improves rows already broken."""

    def stages(self, num_classes: int) -> int:
        """Number of restarts or target classes that run one after the other on what is not broken yet."""
        return 1

    def check(self, num_classes: int, shape: tuple[int, ...]) -> None:
        """Raises `ValueError` where the attack takes no model of so many classes, or no image of that shape."""
        self.stages(num_classes)
        self.draw(image_rng(0, 0), shape)

    @abc.abstractmethod
    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
        """Draws the random numbers that one image of that shape needs in one stage; empty where none."""

    @abc.abstractmethod
    def search(
        self, predictor: Predictor, x: Tensor, y: Tensor, noise: dict[str, Tensor], stage: int
    ) -> tuple[Tensor, Tensor]:
        """Attacks one batch of static size.

        Args:
            predictor: The model.
            x: Clean images, shape `(batch, height, width, channels)`.
            y: Labels, shape `(batch,)`.
            noise: What `draw` gave, stacked over the batch.
            stage: Which restart or target class.

        Returns:
            The images found and the score of each, shape `(batch,)`: among images that agree in being broken
            or not, the one of higher score is kept over the stages.
        """

    def __call__(
        self,
        model: keras.Model,
        x: Tensor,
        y: Tensor,
        *,
        seed: int = 0,
        batch_size: int = 128,
        indices: Sequence[int] | None = None,
    ) -> np.ndarray:
        """Attacks every image; see the class."""
        x = check_images(x)
        y = check_labels(y, len(x))
        check_positive_integer("batch_size", batch_size)
        check_positive_integer("seed", seed, minimum=0)
        images = check_indices(indices, len(x))
        predictor = Predictor.of(model)
        logits = check_logits(predictor.predict(x[:batch_size], batch_size), y)
        result = AttackResult.start(x)
        for stage in range(self.stages(logits.shape[1])):
            rows = np.flatnonzero(result.pending(self))
            for found in attack_stage(self, predictor, x, y, rows, stage, seed, batch_size, images):
                result.merge(*found)
        return result.x_adv


@dataclasses.dataclass
class AttackResult:
    """Best image found for each row so far.

    Attributes:
        x_adv: Images, shape `(images, height, width, channels)`.
        score: Score of each, shape `(images,)`; minus infinity where nothing was tried.
        broken: Whether each is misclassified, shape `(images,)`.
    """

    x_adv: np.ndarray
    score: np.ndarray
    broken: np.ndarray

    @classmethod
    def start(cls, x: np.ndarray) -> "AttackResult":
        """Returns the state before the first stage."""
        return cls(x.copy(), np.full(len(x), -np.inf, "float32"), np.zeros(len(x), bool))

    def pending(self, attack: Attack) -> np.ndarray:
        """Tells which rows the next stage of the attack has to see, shape `(images,)`."""
        return np.ones_like(self.broken) if attack.minimal else ~self.broken

    def merge(self, rows: np.ndarray, x_adv: np.ndarray, score: np.ndarray, broken: np.ndarray) -> None:
        """Takes over what one batch of a stage found, where it is better."""
        better = (broken & ~self.broken[rows]) | ((broken == self.broken[rows]) & (score > self.score[rows]))
        rows = rows[better]
        self.x_adv[rows], self.score[rows], self.broken[rows] = x_adv[better], score[better], broken[better]


def attack_stage(
    attack: Attack,
    predictor: Predictor,
    x: np.ndarray,
    y: np.ndarray,
    rows: np.ndarray,
    stage: int,
    seed: int,
    batch_size: int,
    images: np.ndarray,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Runs one stage of an attack on some rows, batch by batch.

    Args:
        attack: The attack.
        predictor: The model.
        x: All clean images, shape `(images, height, width, channels)`.
        y: All labels, shape `(images,)`.
        rows: Rows to attack, integers.
        stage: Which restart or target class.
        seed: Seed of the evaluation.
        batch_size: Images a pass.
        images: Index of every row in the evaluated set, shape `(images,)`.

    Yields:
        For each batch its rows, the images found, their scores, and whether the model misclassifies them.
    """
    for part, batch in bucketed_batches(rows, min(batch_size, len(x))):
        draws = [attack.draw(image_rng(seed, int(image), stage), x.shape[1:]) for image in images[batch]]
        noise = {name: ops.convert_to_tensor(np.stack([d[name] for d in draws])) for name in draws[0]}
        found, score = attack.search(
            predictor, ops.convert_to_tensor(x[batch]), ops.convert_to_tensor(y[batch]), noise, stage
        )
        found = ops.convert_to_numpy(found)
        # In full float32: a row that is called broken gets no further restart.
        logits = predictor.predict(found, len(batch))
        check_finite(logits)  # NaN would count as class 0
        predicted = logits.argmax(-1)
        keep = slice(0, len(part))
        yield (
            part,
            found[keep],
            ops.convert_to_numpy(score)[keep],
            predicted[keep] != y[part],
        )
