"""Batches: a function of seed, epoch and index alone."""

import keras
import numpy as np
import pytest

from keras_robust.augmentations import AugMix, AutoAugment, Chain, CropFlip
from keras_robust.training import Batches, MixedBatches, ReplayedBatches, RobustTrainer

pytestmark = pytest.mark.once

PIXELS = np.arange(10 * 4 * 4, dtype="uint8").reshape(10, 4, 4, 1)
LABELS = np.arange(10, dtype="int32")


def make(**options):
    options = {"maximum": 255, "batch_size": 4, "augment": CropFlip(1, True), **options}
    return Batches(PIXELS, LABELS, **options)


def epoch(batches, number):
    batches.epoch = number
    return [batches[index] for index in range(len(batches))]


def test_the_same_seed_and_epoch_give_the_same_batches_in_any_order():
    first = epoch(make(), 3)
    other = make()
    epoch(other, 7)
    other.epoch = 3
    for index in (1, 0):
        np.testing.assert_array_equal(other[index][0], first[index][0])
        np.testing.assert_array_equal(other[index][1], first[index][1])


def test_batches_prepared_in_advance_are_the_same_in_any_order_of_epochs():
    plain, ahead = make(), make(ahead=2)
    for number in (0, 3, 1):
        for found, expected in zip(epoch(ahead, number), epoch(plain, number), strict=True):
            np.testing.assert_array_equal(found[0], expected[0])
            np.testing.assert_array_equal(found[1], expected[1])


def test_an_error_in_a_batch_prepared_in_advance_reaches_the_training():
    def broken(x, rng):
        raise ValueError("broken picture")

    with pytest.raises(ValueError, match="broken picture"):
        make(ahead=1, augment=broken)[0]


def test_another_epoch_or_seed_gives_other_batches():
    reference = epoch(make(), 0)[0]
    assert not np.array_equal(epoch(make(), 1)[0][0], reference[0])
    assert not np.array_equal(epoch(make(seed=1), 0)[0][0], reference[0])


def test_an_epoch_visits_each_image_at_most_once_in_full_batches():
    labels = np.concatenate([y for _, y in epoch(make(), 0)])
    assert len(labels) == 8
    assert len(set(labels)) == 8


def test_images_keep_their_labels_and_are_scaled_to_the_unit_interval():
    for x, y in epoch(make(augment=None), 0):
        assert x.dtype == np.float32
        np.testing.assert_allclose(x, PIXELS[y] / np.float32(255), rtol=1e-7)


def test_fewer_images_than_a_batch_make_one_batch():
    batches = make(batch_size=100)
    assert len(batches) == 1
    assert len(batches[0][1]) == 10


def test_labels_of_another_number_are_refused():
    with pytest.raises(ValueError, match="10 images, 9 labels"):
        Batches(PIXELS, LABELS[:9], maximum=255)


@pytest.mark.parametrize("labels", [LABELS[:, None], np.eye(10, dtype="int32")[LABELS], LABELS.astype("float32")])
def test_labels_that_are_not_one_integer_an_image_are_refused(labels):
    with pytest.raises(ValueError, match=r"`labels` must hold integer"):
        Batches(PIXELS, labels, maximum=255)


def test_pixels_above_the_maximum_are_refused():
    with pytest.raises(ValueError, match=r"`maximum` must be the stored value that stands for 1\.0.*maximum=255"):
        Batches(PIXELS, LABELS)


@pytest.mark.parametrize(
    "options",
    [
        {"views": (AugMix(), AugMix())},
        {"augment": AutoAugment()},
        {"augment": Chain((CropFlip(1, True), Chain((AugMix(maximum=16),))))},
    ],
)
def test_augmentations_of_another_maximum_are_refused(options):
    with pytest.raises(ValueError, match=r"maximum of the batches, 1\.0. Received: A"):
        Batches(PIXELS / np.float32(255), LABELS, **options)


def test_a_mixed_batch_holds_its_share_of_extra_images_and_an_epoch_is_as_long_as_the_labelled_set():
    extra = Batches(255 - PIXELS[:6], LABELS[:6] + 100, maximum=255, batch_size=2, seed=5)
    mixed = MixedBatches(make(batch_size=2, augment=None), extra)
    assert len(mixed) == 2  # 10 images, 4 a batch
    for x, y in epoch(mixed, 0):
        assert x.shape == (4, 4, 4, 1)
        assert (y >= 100).tolist() == [False, False, True, True]
        np.testing.assert_allclose(x[2:], (255 - PIXELS[y[2:] - 100]) / np.float32(255), rtol=1e-7)


def test_mixed_batches_use_up_all_extra_images_before_they_repeat_one():
    extra = Batches(PIXELS[:4], LABELS[:4] + 100, maximum=255, batch_size=2, seed=5)
    mixed = MixedBatches(make(batch_size=2, augment=None), extra)
    found = [y[2:] for y in (mixed[index][1] for index in range(4))]
    assert sorted(np.concatenate(found[:2])) == [100, 101, 102, 103]
    np.testing.assert_array_equal(found[2], found[0])


def test_mixed_batches_keep_views_together_and_must_have_as_many():
    def negative(x, rng):
        return 255 - x

    labelled, extra = (
        Batches(PIXELS, LABELS + first, maximum=255, batch_size=size, views=(negative,))
        for first, size in ((0, 3), (100, 1))
    )
    x, y = MixedBatches(labelled, extra)[0]
    assert (y >= 100).tolist() == 2 * [False, False, False, True]
    np.testing.assert_array_equal(y[:4], y[4:])
    np.testing.assert_allclose(x[:4] + x[4:], 1.0, rtol=1e-6)
    with pytest.raises(ValueError, match="as many views"):
        MixedBatches(labelled, Batches(PIXELS, LABELS, maximum=255))


def test_mixed_batches_follow_the_epochs_and_refuse_images_of_another_shape():
    extra = Batches(PIXELS[:4], LABELS[:4], maximum=255, batch_size=2)
    mixed = MixedBatches(make(batch_size=2), extra)
    mixed.follow_epochs().on_epoch_begin(3, None)
    assert mixed.labelled.epoch == extra.epoch == 3
    with pytest.raises(ValueError, match=r"\(2, 4, 1\)"):
        MixedBatches(make(), Batches(PIXELS[:, :2], LABELS, maximum=255))


@pytest.mark.parametrize(
    "make_batches", [make, lambda: MixedBatches(make(batch_size=2), make(batch_size=2, seed=1))]
)
def test_epochs_are_counted_where_no_callback_tells_them(make_batches):
    told, counting = make_batches(), make_batches()
    follow = told.follow_epochs()
    for number in range(3):
        follow.on_epoch_begin(number, {})
        for index in range(len(told)):
            np.testing.assert_array_equal(counting[index][0], told[index][0])
        counting.on_epoch_end()


def test_replayed_batches_follow_each_other_in_fit_and_change_from_epoch_to_epoch():
    seen, batches = [], make()
    model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(10)])
    trainer = RobustTrainer(model, perturbations=[lambda model, x, y, seed: seen.append(np.array(y)) or x])
    trainer.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), run_eagerly=True)
    trainer.fit(ReplayedBatches(batches, 3), epochs=2, verbose=0)
    expected = [epoch(make(), number)[index][1] for number in range(2) for index in range(2) for _ in range(3)]
    np.testing.assert_array_equal(np.stack(seen[-12:]), expected)
