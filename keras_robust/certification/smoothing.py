"""The classifier that a network becomes under Gaussian noise, and the L2 radius within which its answer holds."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
from keras import ops
from scipy import stats

from keras_robust import backend
from keras_robust.certification.state import CertificationState
from keras_robust.checks import Tensor, check_images, check_labels, check_logits, check_positive_integer
from keras_robust.digests import digest, digest_of_layers, digest_of_weights
from keras_robust.prediction import Predictor

ABSTAIN = -1
"""The class that `predict` and `certify` return where the votes do not decide."""

Progress = Callable[[int, int, int, int], None]
"""Called with the images certified, images in all, noisy copies of the present image counted, copies in all."""

_SELECT, _ESTIMATE, _PREDICT = range(3)  # streams of noise


@dataclasses.dataclass(frozen=True)
class Certificates:
    """What certification found for each image.

    Attributes:
        prediction: Class, or `ABSTAIN`, shape `(images,)`.
        radius: Certified L2 radius in pixel units, 0 where it abstained, shape `(images,)`.
        lower_bound: Lower confidence bound of the probability of the most voted class, shape `(images,)`.
        successes: Votes for that class among the `n` noisy copies, shape `(images,)`.
        sigma: Standard deviation of the noise in pixel units.
        n: Noisy copies of each image.
        alpha: Probability that a certificate is wrong.
    """

    prediction: np.ndarray
    radius: np.ndarray
    lower_bound: np.ndarray
    successes: np.ndarray
    sigma: float
    n: int
    alpha: float


class SmoothedClassifier:
    """Classifies by the vote of a model over noisy copies of an image, with a certified L2 radius.

    The noise is not clipped and is added to the pixels, before the model's standardisation; the model runs in
    inference mode. It is drawn on the device from (seed, the image's pixels, batch) alone: results depend
    neither on which other images are certified, nor on their order, nor on interruptions. They depend on
    `batch_size` and, between PyTorch and the others, on the backend. A copy on which the model returns a logit
    that is not finite votes for no class.

    Args:
        model: Keras model that returns logits, shape `(batch, classes)`, for pixels in [0, 1].
        sigma: Standard deviation of the noise in pixel units.
        num_classes: Number of logits.

    Raises:
        ValueError: If `sigma` is not a positive number in pixel units.

    Reference:
        Cohen et al., 2019, https://arxiv.org/abs/1902.02918 (section 3.2, algorithm 1)
    """

    def __init__(self, model: keras.Model, sigma: float, num_classes: int):
        check_sigma(sigma)
        check_positive_integer("num_classes", num_classes, minimum=2)
        self.model = model
        self.sigma = float(sigma)
        self.num_classes = int(num_classes)
        self._predictor = Predictor.of(model)

    def predict(
        self, x: Tensor, *, n: int = 100_000, alpha: float = 0.001, batch_size: int = 1000, seed: int = 0
    ) -> np.ndarray:
        """Predicts the class of each image, or abstains.

        Args:
            x: Images, shape `(images, height, width, channels)`, in [0, 1].
            n: Noisy copies of each image.
            alpha: Probability of an answer that is not the smoothed classifier's.
            batch_size: Noisy copies a pass.
            seed: Seed of the noise.

        Returns:
            Classes, shape `(images,)`, int32; `ABSTAIN` where a two-sided binomial test of the two most voted
            classes is not significant at `alpha`.

        Raises:
            ValueError: If an argument is out of range or the model does not return `num_classes` logits.
        """
        x = self._check(x, alpha, n=n, batch_size=batch_size, seed=seed)
        answers = []
        for image in x:
            counts = self._count(image, _PREDICT, n, batch_size, seed)
            second, first = np.argsort(counts, kind="stable")[-2:]
            both = counts[first] + counts[second]
            undecided = both == 0 or stats.binomtest(counts[first], both, 0.5).pvalue > alpha
            answers.append(ABSTAIN if undecided else first)
        return np.array(answers, "int32")

    def certify(
        self,
        x: Tensor,
        *,
        n0: int = 100,
        n: int = 100_000,
        alpha: float = 0.001,
        batch_size: int = 1000,
        seed: int = 0,
        y: Tensor | None = None,
        output: str | Path | None = None,
        progress: Progress | None = None,
    ) -> Certificates:
        """Certifies an L2 radius around each image.

        With `output`, counts are kept in that file: a run that was killed goes on from there, a later run takes
        over the images that are in it, and another `alpha` costs no pass through the model.

        Args:
            x: Images, shape `(images, height, width, channels)`, in [0, 1].
            n0: Noisy copies that select the class.
            n: Noisy copies that bound its probability.
            alpha: Probability that a certificate is wrong.
            batch_size: Noisy copies a pass.
            seed: Seed of the noise.
            y: Integer labels, shape `(images,)`, where only certified accuracy is wanted: an image whose selected
                class is another is wrong at every radius, and is spared the `n` copies. It counts as abstaining.
            output: File that keeps the counts, JSON.
            progress: Called after each pass.

        Returns:
            Class and radius of each image: the class most voted among `n0`; the radius is
            `sigma * Phi^-1(p)` with `p` the one-sided Clopper-Pearson lower bound over `n`. It abstains, with
            radius 0, where `p < 0.5`.

        Raises:
            ValueError: If an argument is out of range, the model does not return `num_classes` logits, or
                `output` holds the counts of another model, noise or seed.
        """
        x = self._check(x, alpha, n0=n0, n=n, batch_size=batch_size, seed=seed)
        y = None if y is None else check_labels(y, len(x), self.num_classes)
        n0, n, batch_size, seed = int(n0), int(n), int(batch_size), int(seed)  # NumPy's go into no JSON
        progress = progress or (lambda *_: None)
        context = {
            "weights": digest_of_weights(self.model),
            "layers": digest_of_layers(self.model),
            "sigma": self.sigma,
            "num_classes": self.num_classes,
            "n0": n0,
            "n": n,
            "batch_size": batch_size,
            "seed": seed,
            "backend": f"{keras.backend.backend()} {backend.VERSION}",
        }
        found = []
        with CertificationState(None if output is None else Path(output), context) as state:
            for index, image in enumerate(x):
                key = digest(image)
                if key not in state.images:
                    most = int(self._count(image, _SELECT, n0, batch_size, seed).argmax())
                    state.images[key] = {"selected": most, "successes": 0, "done": 0}
                held = state.images[key]
                if y is not None and held["selected"] != y[index]:
                    found.append((held["selected"], 0))
                    progress(index + 1, len(x), n, n)
                    continue

                def keep(counts, done, held=held, index=index):
                    held["successes"] += int(counts[held["selected"]])
                    held["done"] = done
                    state.save_now_and_then()
                    progress(index + (done == n), len(x), done, n)

                self._count(image, _ESTIMATE, n, batch_size, seed, held["done"], keep)
                found.append((held["selected"], held["successes"]))
        votes = np.array(found)
        selected, successes = votes[:, 0], votes[:, 1]
        lower = lower_confidence_bound(successes, n, alpha)
        certified = lower >= 0.5
        return Certificates(
            prediction=np.where(certified, selected, ABSTAIN).astype("int32"),
            radius=np.where(certified, self.sigma * stats.norm.ppf(lower), 0.0),
            lower_bound=lower,
            successes=successes,
            sigma=self.sigma,
            n=n,
            alpha=float(alpha),
        )

    def _check(self, x: Tensor, alpha: float, seed: int, **integers: int) -> np.ndarray:
        x = check_images(x)
        for name, value in integers.items():
            check_positive_integer(name, value)
        check_positive_integer("seed", seed, minimum=0)
        check_alpha(alpha)
        logits = check_logits(self._predictor.predict(x[:2], 2))
        if logits.shape[1] != self.num_classes:
            raise ValueError(
                f"`num_classes` must be the number of logits of the model, {logits.shape[1]}. "
                f"Received: num_classes={self.num_classes}."
            )
        return x

    def _count(self, image, stream, n, batch_size, seed, done=0, after=lambda counts, done: None) -> np.ndarray:
        """Counts the votes of the noisy copies of one image from number `done` on; `after` sees each batch's."""
        size, classes = min(batch_size, n), self.num_classes

        def vote(logits, noisy, tick, valid):
            outputs = logits(noisy, tick)
            row = ops.arange(size, dtype="int32")
            voting = ops.logical_and(ops.all(ops.isfinite(outputs), axis=-1), row < valid)
            votes = ops.one_hot(ops.argmax(outputs, axis=-1), classes, dtype="int32")
            return ops.sum(votes * ops.cast(voting, "int32")[:, None], axis=0)

        draw = _noisy_copies(size)
        run = self._predictor.compiled(("smoothing", size, classes), vote)
        x, sigma = ops.convert_to_tensor(image), ops.convert_to_tensor(np.float32(self.sigma))
        words = [int(part, 16) for part in (digest(image)[:16], digest(image)[16:32])]
        total = np.zeros(classes, "int64")
        while done < n:
            state = np.random.SeedSequence(seed, spawn_key=(*words, stream, done // size)).generate_state(3)
            key = ops.convert_to_tensor(state[:2].view("int32"))
            # A model that is itself random draws anew in each batch; 20 bits leave room in a 32-bit counter.
            tick, valid = (ops.convert_to_tensor(np.int32(v)) for v in (state[2] >> 12, min(size, n - done)))
            self._predictor.count(forward=size)
            counts = ops.convert_to_numpy(run(draw(x, sigma, key), tick, valid)).astype("int64")
            done = min(done + size, n)
            total += counts
            after(counts, done)
        return total


def check_sigma(sigma: float) -> None:
    """Raises `ValueError` unless `sigma` is a positive standard deviation in pixel units."""
    number = isinstance(sigma, int | float | np.number) and not isinstance(sigma, bool)
    if not number or not 0 < sigma <= 10:
        hint = f" Did you mean {sigma:g} / 255?" if number and sigma > 10 else ""
        raise ValueError(
            "`sigma` must be a positive standard deviation in pixel units, where pixels are in [0, 1]. "
            f"Received: sigma={sigma!r}.{hint}"
        )


def check_alpha(alpha: float) -> None:
    """Raises `ValueError` unless `alpha` is a probability between 0 and 1."""
    if isinstance(alpha, bool) or not isinstance(alpha, int | float | np.number) or not 0 < alpha < 1:
        raise ValueError(
            f"`alpha` must be a probability of error in (0, 1), such as 0.001. Received: alpha={alpha!r}."
        )


@functools.lru_cache(maxsize=8)
def _noisy_copies(size: int) -> Callable:
    """Returns the compiled function that draws a batch of noisy copies of an image.

    It is a program of its own: XLA would fuse the draws into the model's first padding and compute them there one
    by one, for five times their time; PyTorch, whose generator looks at the key, could not record the model.
    """

    def draw(x, sigma, key):
        return x[None] + sigma * backend.normal((size, *x.shape), key)

    return backend.jit(draw)


def lower_confidence_bound(successes: np.ndarray | int, n: int, alpha: float) -> np.ndarray:
    """Bounds a probability from below: the one-sided Clopper-Pearson bound of confidence `1 - alpha`.

    Args:
        successes: Successes among `n` trials, an integer or an array of integers.
        n: Number of trials.
        alpha: Probability that the bound is too high.

    Returns:
        The bound, float64, of the shape of `successes`.
    """
    successes = np.asarray(successes)
    bound = stats.beta.ppf(alpha, np.maximum(successes, 1), n - np.maximum(successes, 1) + 1)
    return np.where(successes == 0, 0.0, bound)
