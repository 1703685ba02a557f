"""Small nets, data and numbers that the tests of robust training share."""

import keras
import numpy as np
from keras import layers

from keras_robust.layers import SubnetGate
from keras_robust.training import SGD

CLOSE = {"rtol": 2e-4, "atol": 2e-6}  # float32, through a few steps


def linear(features=6, classes=2, seed=0):
    """A model of one dense layer with known weights, on vectors."""
    rng = np.random.default_rng(seed)
    model = keras.Sequential([keras.Input((features,)), layers.Dense(classes)])
    weights = rng.standard_normal((features, classes)).astype("float32")
    bias = rng.standard_normal(classes).astype("float32")
    model.set_weights([weights, bias])
    return model


def convolutional(dropout=0.0, seed=0):
    """A convolution with batch normalisation, and dropout where asked for, on images of 6 x 6."""
    return keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            layers.Conv2D(4, 3, kernel_initializer=keras.initializers.GlorotUniform(seed)),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Dropout(dropout, seed=seed),
            layers.Flatten(),
            layers.Dense(3, kernel_initializer=keras.initializers.GlorotUniform(seed + 1)),
        ]
    )


def dense(dropout=0.0, seed=0):
    """A net that compiles fast and has all that a step can move: weights, averages, random seeds, subnets."""
    return keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            layers.Flatten(),
            layers.Dense(16, kernel_initializer=keras.initializers.GlorotUniform(seed), name="hidden"),
            layers.BatchNormalization(),
            layers.ReLU(),
            SubnetGate("block", 0, layer="hidden", name="gate"),
            layers.Dropout(dropout, seed=seed),
            layers.Dense(3, kernel_initializer=keras.initializers.GlorotUniform(seed + 1)),
        ]
    )


def vectors(count=16, features=6, classes=2):
    """Points far enough from the faces of the box that small balls do not meet them."""
    rng = np.random.default_rng(1)
    x = rng.uniform(0.3, 0.7, (count, features)).astype("float32")
    return x, rng.integers(0, classes, count).astype("int32")


def images(count=32):
    """Images of three classes that a small net can tell apart: the brightest third of the rows."""
    rng = np.random.default_rng(2)
    y = rng.integers(0, 3, count).astype("int32")
    x = rng.uniform(0.2, 0.5, (count, 6, 6, 1))
    for row, label in enumerate(y):
        x[row, 2 * label : 2 * label + 2] += 0.4
    return x.astype("float32"), y


def compiled(trainer, learning_rate=0.0, **options):
    """Compiles with plain gradient descent, or the momentum asked for."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    trainer.compile(optimizer=SGD(learning_rate, **options), loss=loss)
    return trainer


def fit(trainer, x, y, batch_size=None, **options):
    """Trains on the whole set as one batch, or on batches in order; returns the losses of the epochs."""
    options = {"shuffle": False, "verbose": 0, **options}
    return trainer.fit(x, y, batch_size=batch_size or len(x), **options).history["loss"]


def softmax(logits):
    """Softmax in float64."""
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def cross_entropy(weights, x, y, label_smoothing=0.0):
    """Mean cross-entropy of a linear model, in float64."""
    probabilities = softmax(x.astype("float64") @ weights[0] + weights[1])
    classes = probabilities.shape[1]
    targets = (1 - label_smoothing) * np.eye(classes)[y] + label_smoothing / classes
    return -(targets * np.log(probabilities)).sum(-1).mean()


def kl(weights, x, other):
    """Divergence KL(p(x) || p(other)) of a linear model for each row, in float64."""
    p, q = (softmax(each.astype("float64") @ weights[0] + weights[1]) for each in (x, other))
    return (p * np.log(p / q)).sum(-1)


def gradient(loss, weights, step=1e-5):
    """Central differences of a function of the list of weights, in float64."""
    weights = [np.asarray(weight, "float64") for weight in weights]
    slopes = [np.zeros_like(weight) for weight in weights]
    for weight, slope in zip(weights, slopes, strict=True):
        for index in np.ndindex(weight.shape):
            before = weight[index]
            values = []
            for sign in (1, -1):
                weight[index] = before + sign * step
                values.append(loss(weights))
            weight[index] = before
            slope[index] = (values[0] - values[1]) / (2 * step)
    return slopes


def worst_linear(weights, x, y, epsilon):
    """The optimum of the Linf attack on a linear model of two classes, away from the faces of the box."""
    direction = weights[0][:, 1] - weights[0][:, 0]
    return x + epsilon * np.where(y == 0, 1, -1)[:, None] * np.sign(direction)
