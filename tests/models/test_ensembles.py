import keras
import numpy as np
import pytest

from keras_robust import models
from keras_robust.layers.averaging import averaged_weights
from keras_robust.training import SGD


def trained(model, x, y):
    model.compile(
        optimizer=SGD(0.1, momentum=0.9, weight_decay=1e-4),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(x, y, batch_size=32, epochs=2, shuffle=False, verbose=0)
    return logits(model, x)


def logits(model, x):
    """In training mode: the averages of a few steps still hold the variance that they started from."""
    return keras.ops.convert_to_numpy(model(x, training=True))


def test_disjoint_ensembles_without_noise_train_like_the_plain_net(rng):
    x, y = rng.random((64, 8, 8, 3), dtype="float32"), rng.integers(0, 10, 64)
    size = 2
    plain = models.build("kap_cnn", 10, (8, 8, 3), depth=2, seed=0)
    options = {"pooling": "kap", "pool_size": size, "strides": size, "width_multiplier": size}
    ensembles = models.build("kap_cnn", 10, (8, 8, 3), depth=2, seed=0, **options)
    for name, side in (("conv1", 8), ("conv2", 12)):
        kernel, bias = (np.asarray(keras.ops.convert_to_numpy(w)) for w in plain.get_layer(name).weights)
        # Each member is the plain kernel over K: as large as the average of K * K random ones.
        members = np.kron(kernel.reshape(*kernel.shape[:3], side, side), np.ones((1, 1, 1, size, size)))
        grown = np.kron(bias.reshape(side, side), np.ones((size, size)))
        ensembles.get_layer(name).set_weights(
            [members.reshape(*kernel.shape[:3], -1) / size, grown.ravel() / size]
        )
    ensembles.get_layer("logits").set_weights(plain.get_layer("logits").get_weights())
    before = logits(plain, x)
    ours, theirs = trained(ensembles, x, y), trained(plain, x, y)
    assert np.abs(theirs - before).max() > 0.5  # they have moved far
    # Normalisation's epsilon, 1e-5, weighs more against the smaller variance.
    np.testing.assert_allclose(ours, theirs, atol=0.05 * np.abs(theirs - before).max())


def test_disjoint_ensembles_have_the_noise_of_a_plain_net_times_their_size():
    size, sigma = 3, 0.1
    options = {"pooling": "kap", "pool_size": size, "strides": size, "width_multiplier": size, "padding": "valid"}
    ensembles = models.build("kap_ensemble_cnn", 10, (8, 8, 3), sigma=sigma, seed=0, **options)
    plain = models.build("kap_ensemble_cnn", 10, (8, 8, 3), pooling=None, width_multiplier=1, sigma=sigma, seed=0)

    def spread(model):
        layer = model.get_layer("conv2")
        kernel = averaged_weights(layer)[0] if hasattr(layer, "averaging") else layer.get_weights()[0]
        return float(np.std(kernel))

    # The kernel is K times smaller at the start, and the noise after it is the same.
    assert spread(plain) / spread(ensembles) == pytest.approx(size, rel=0.05)
