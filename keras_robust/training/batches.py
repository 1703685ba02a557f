"""Training batches that depend on (seed, epoch, batch) alone: alike on every backend, and in a resumed run."""

import concurrent.futures
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import keras
import numpy as np

from keras_robust.checks import check_labels, check_positive_integer

Augmentation: TypeAlias = Callable[[np.ndarray, np.random.Generator], np.ndarray]


class Batches(keras.utils.PyDataset):
    """Shuffled and augmented batches for `fit`.

    In `fit` of another model than `RobustTrainer`, pass `callbacks=[batches.follow_epochs()]` and `shuffle=False`,
    so that the batches know the epoch also where a training goes on.
    Every batch is full: the images that remain at the end of an epoch are left out of it, others each time,
    unless there are fewer images than one batch.

    Args:
        pixels: Images as stored, shape `(images, height, width, channels)`; or pictures that are decoded when rows
            of them are asked for, as `keras_robust.datasets.Pictures`.
        labels: Integer labels, shape `(images,)`.
        maximum: Stored value that stands for 1.0.
        batch_size: Images a batch.
        augment: `(images, rng) -> images`, on pixels as stored; None leaves them.
        views: Augmentations of what `augment` returns; the images of each follow along the batch axis, with the
            same labels: a batch holds `batch_size` images, then the first view of them all, then the next.
        crop: Random crop of pictures, drawn while they are decoded; None gives them their evaluation size.
        ahead: Batches to prepare in advance, in a thread; for pictures that take time to decode.
        seed: Seed of order, crop and augmentation.

    Raises:
        ValueError: If there are no images, labels are not one integer an image, the first pixels exceed `maximum`,
            an augmentation has another one, or `batch_size` is not a positive integer.
    """

    def __init__(
        self,
        pixels: Any,
        labels: np.ndarray,
        *,
        maximum: float = 1.0,
        batch_size: int = 128,
        augment: Augmentation | None = None,
        views: Sequence[Augmentation] = (),
        crop: Callable[[Any, np.random.Generator], np.ndarray] | None = None,
        ahead: int = 0,
        seed: int = 0,
    ):
        super().__init__()
        check_positive_integer("batch_size", batch_size)
        if len(pixels) == 0 or len(pixels) != len(labels):
            raise ValueError(
                "`pixels` and `labels` must hold the same number of images, at least one. "
                f"Received: {len(pixels)} images, {len(labels)} labels."
            )
        check_labels(labels, len(pixels), name="labels")
        if isinstance(pixels, np.ndarray) and pixels[:batch_size].max() > maximum:
            raise ValueError(
                "`maximum` must be the stored value that stands for 1.0, the highest that pixels may have. "
                f"Received: maximum={maximum}, pixels up to {pixels[:batch_size].max()}. For 8 bits, maximum=255."
            )
        for part in _parts_of((augment, *views)):
            if getattr(part, "maximum", maximum) != maximum:
                raise ValueError(
                    f"Augmentations must have the maximum of the batches, {maximum}. Received: {part!r}. "
                    "Pass the same `maximum` to both, the stored value that stands for 1.0."
                )
        self.pixels = pixels
        self.labels = labels
        self.maximum = maximum
        self.batch_size = min(batch_size, len(pixels))
        self.augment = augment
        self.views = tuple(views)
        self.crop = crop
        self.ahead = ahead
        self.seed = seed
        self.epoch = 0
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, "int64"))
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "batches") if ahead else None
        self._coming: dict[tuple[int, int], concurrent.futures.Future] = {}

    def __len__(self) -> int:
        return len(self.pixels) // self.batch_size

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        epoch = self.epoch
        if self._thread is None:
            return self._batch(epoch, index)
        wanted = [(epoch, each) for each in range(index, min(index + self.ahead + 1, len(self)))]
        coming = {key: self._coming.get(key) or self._thread.submit(self._batch, *key) for key in wanted}
        for key in self._coming.keys() - coming.keys():
            self._coming[key].cancel()
        self._coming = coming
        return coming[epoch, index].result()

    def _batch(self, epoch: int, index: int) -> tuple[np.ndarray, np.ndarray]:
        order = self._order
        if order[0] != epoch:
            order = self._order = (epoch, self._rng(epoch).permutation(len(self.pixels)))
        rows = order[1][index * self.batch_size : (index + 1) * self.batch_size]
        rng = self._rng(epoch, index)
        x = self.pixels[rows] if self.crop is None else self.pixels.cropped(rows, self.crop, rng)
        if self.augment is not None:
            x = self.augment(x, rng)
        y = self.labels[rows]
        if self.views:
            x = np.concatenate([x, *(view(x, rng) for view in self.views)])
            y = np.tile(y, 1 + len(self.views))
        return x.astype("float32") / np.float32(self.maximum), y

    def follow_epochs(self) -> keras.callbacks.Callback:
        """Returns the callback that tells these batches which epoch `fit` is in."""
        return keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: setattr(self, "epoch", epoch))

    def on_epoch_end(self) -> None:
        """Counts the epochs of `fit` where no callback tells them."""
        self.epoch += 1

    def _rng(self, *key: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(entropy=self.seed, spawn_key=key))


def _parts_of(augmentations: Sequence[Any]) -> Iterator[Any]:
    """Augmentations, and those that a `Chain` applies in their place."""
    for each in augmentations:
        parts = getattr(each, "parts", None)
        yield from (each,) if parts is None else _parts_of(parts)


class MixedBatches(keras.utils.PyDataset):
    """Joins each labelled batch with one of extra images, such as pseudo-labelled ones.

    An epoch stays as many images long as the labelled set: with halves of equal size it sees half of the labelled
    images, others each time. Extra images are drawn without replacement until they are used up.

    Args:
        labelled: Batches of labelled images, `batch_size` of them in each joined batch.
        extra: Batches of extra images of the same shape; half of each batch in the papers.

    Reference:
        Carmon et al., 2019, https://arxiv.org/abs/1905.13736 (section 5 and appendix B)
    """

    def __init__(self, labelled: Batches, extra: Batches):
        super().__init__()
        if labelled.pixels.shape[1:] != extra.pixels.shape[1:]:
            raise ValueError(
                "`extra` must hold images of the shape of `labelled`. "
                f"Received: {extra.pixels.shape[1:]} and {labelled.pixels.shape[1:]}. Resize the extra images."
            )
        if len(labelled.views) != len(extra.views):
            raise ValueError(
                "`extra` must have as many views as `labelled`. "
                f"Received: {len(extra.views)} and {len(labelled.views)}. Pass the same `views` to both."
            )
        self.labelled = labelled
        self.extra = extra
        self.batch_size = labelled.batch_size + extra.batch_size

    def __len__(self) -> int:
        return max(1, len(self.labelled.pixels) // self.batch_size)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        halves = self.labelled[index], self.extra[index % len(self.extra)]
        views = 1 + len(self.labelled.views)
        x, y = (_join(parts, views) for parts in zip(*halves, strict=True))
        return x, y

    def follow_epochs(self) -> keras.callbacks.Callback:
        """Returns the callback that tells these batches which epoch `fit` is in."""

        def follow(epoch, logs):
            self.labelled.epoch = self.extra.epoch = epoch

        return keras.callbacks.LambdaCallback(on_epoch_begin=follow)

    def on_epoch_end(self) -> None:
        """Counts the epochs of `fit` where no callback tells them."""
        self.labelled.on_epoch_end()
        self.extra.on_epoch_end()


def _join(parts: Sequence[np.ndarray], views: int) -> np.ndarray:
    """Joins arrays view by view: all first ones, then all second ones."""
    by_view = [part.reshape(views, -1, *part.shape[1:]) for part in parts]
    return np.concatenate(by_view, axis=1).reshape(-1, *parts[0].shape[1:])


class ReplayedBatches(keras.utils.PyDataset):
    """Hands out each batch several times in a row, as `FreeAdversarial` needs.

    Outside of `RobustTrainer`, pass `shuffle=False` to `fit`, or Keras tears the replays apart.

    Args:
        batches: The batches.
        replays: How often each is handed out.

    Raises:
        ValueError: If `replays` is not a positive integer.
    """

    def __init__(self, batches: Batches | MixedBatches, replays: int):
        super().__init__()
        check_positive_integer("replays", replays)
        self.batches = batches
        self.replays = replays
        self.batch_size = batches.batch_size

    def __len__(self) -> int:
        return len(self.batches) * self.replays

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self.batches[index // self.replays]

    def follow_epochs(self) -> keras.callbacks.Callback:
        """Returns the callback that tells these batches which epoch `fit` is in."""
        return self.batches.follow_epochs()

    def on_epoch_end(self) -> None:
        """Counts the epochs of `fit` where no callback tells them."""
        self.batches.on_epoch_end()


AnyBatches: TypeAlias = Batches | MixedBatches | ReplayedBatches
"""What `fit` can take batches from."""
