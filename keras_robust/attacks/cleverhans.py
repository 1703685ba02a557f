"""cleverhans 4's attacks on our models: five on PyTorch, two on TensorFlow; for comparison with other work.

Our own attacks do the same on every backend and compiled: `FGSM`, `PGD`, `FAB` and `Square`. Images come and go as
NumPy arrays, shape `(images, height, width, channels)`, in [0, 1]. cleverhans draws from the global generators of
Keras's backend, which each call seeds.
"""

import importlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_robust import norms
from keras_robust.attacks.base import Predictor
from keras_robust.backend.torch_module import as_torch_module
from keras_robust.checks import (
    Tensor,
    check_epsilon,
    check_images,
    check_labels,
    check_logits,
    check_positive_integer,
)

_ORDERS = {"Linf": np.inf, "L2": 2, "L1": 1}
_INSTEAD = {
    "fast_gradient_method": "attacks.FGSM",
    "projected_gradient_descent": "attacks.PGD",
    "carlini_wagner_l2": "attacks.FAB(norm='L2', epsilon=None)",
    "spsa": "attacks.Square(norm='Linf')",
    "hop_skip_jump_attack": "attacks.Square",
}
_PACKAGES = {
    "torch": ("cleverhans.torch.attacks", tuple(_INSTEAD)),
    "tensorflow": ("cleverhans.tf2.attacks", ("fast_gradient_method", "projected_gradient_descent")),
}


def fast_gradient_method(
    model: keras.Model,
    x: Tensor,
    y: Tensor,
    *,
    norm: str = "Linf",
    epsilon: float = 8 / 255,
    batch_size: int = 128,
) -> np.ndarray:
    """Runs cleverhans's fast gradient method on PyTorch or TensorFlow.

    Args:
        model: Keras model that returns logits, shape `(batch, classes)`.
        x: Clean images, shape `(images, height, width, channels)`, in [0, 1].
        y: Integer labels, shape `(images,)`.
        norm: 'Linf', 'L2' or 'L1'.
        epsilon: Radius in pixel units of the norm.
        batch_size: Images a pass.

    Returns:
        Images of the shape of `x`.

    Raises:
        ValueError: If an argument is out of range, or cleverhans cannot run this on the backend.
        ImportError: If cleverhans is not installed.
    """
    norms.get(norm)
    check_epsilon(epsilon, norm)

    def call(attack, logits, images, labels):
        return attack(logits, images, epsilon, _ORDERS[norm], clip_min=0.0, clip_max=1.0, y=labels)

    return _run("fast_gradient_method", call, model, x, y, 0, batch_size)


def projected_gradient_descent(
    model: keras.Model,
    x: Tensor,
    y: Tensor,
    *,
    norm: str = "Linf",
    epsilon: float = 8 / 255,
    step_size: float = 2 / 255,
    steps: int = 10,
    random_start: bool = True,
    seed: int = 0,
    batch_size: int = 128,
) -> np.ndarray:
    """Runs cleverhans's projected gradient descent on PyTorch or TensorFlow.

    Args:
        model: Keras model that returns logits, shape `(batch, classes)`.
        x: Clean images, shape `(images, height, width, channels)`, in [0, 1].
        y: Integer labels, shape `(images,)`.
        norm: 'Linf' or 'L2'; cleverhans has no projection for L1.
        epsilon: Radius in pixel units of the norm.
        step_size: Length of a step in pixel units of the norm.
        steps: Gradient steps; the last iterate is returned.
        random_start: Whether to start at random: uniform in the cube of side `2 * epsilon`, clipped to the ball.
        seed: Seed of the global generators.
        batch_size: Images a pass.

    Returns:
        Images of the shape of `x`.

    Raises:
        ValueError: If an argument is out of range, or cleverhans cannot run this on the backend.
        ImportError: If cleverhans is not installed.
    """
    norms.get(norm)
    check_epsilon(epsilon, norm)
    check_positive_integer("steps", steps)
    if norm == "L1":
        raise ValueError(
            "cleverhans has no projected gradient descent for L1. Received: norm='L1'. Use attacks.PGD(norm='L1')."
        )
    if not 0 < step_size <= epsilon:
        raise ValueError(
            "`step_size` must lie in (0, epsilon]: cleverhans refuses longer steps. "
            f"Received: step_size={step_size!r}, epsilon={epsilon!r}."
        )

    def call(attack, logits, images, labels):
        return attack(
            logits,
            images,
            epsilon,
            step_size,
            steps,
            _ORDERS[norm],
            clip_min=0.0,
            clip_max=1.0,
            y=labels,
            rand_init=random_start,
            sanity_checks=False,  # they compare radii without a tolerance for float32
        )

    return _run("projected_gradient_descent", call, model, x, y, seed, batch_size)


def carlini_wagner_l2(
    model: keras.Model,
    x: Tensor,
    y: Tensor,
    *,
    steps: int = 1000,
    searches: int = 5,
    learning_rate: float = 5e-3,
    batch_size: int = 128,
) -> np.ndarray:
    """Runs cleverhans's Carlini-Wagner L2 attack, which looks for the closest adversarial image, on PyTorch.

    Args:
        model: Keras model that returns logits, shape `(batch, classes)`.
        x: Clean images, shape `(images, height, width, channels)`, in [0, 1].
        y: Integer labels, shape `(images,)`.
        steps: Gradient steps for each weight of the loss.
        searches: Weights of the loss tried, by bisection.
        learning_rate: Of Adam.
        batch_size: Images a pass.

    Returns:
        Images of the shape of `x`, at any distance; the clean image where none was found.

    Raises:
        ValueError: If an argument is out of range, or Keras does not run on PyTorch.
        ImportError: If cleverhans is not installed.

    Reference:
        Carlini and Wagner, 2017, https://arxiv.org/abs/1608.04644
    """
    check_positive_integer("steps", steps)
    check_positive_integer("searches", searches)

    def call(attack, logits, images, labels):
        return attack(
            logits,
            images,
            logits(images[:1]).shape[-1],
            y=labels,
            lr=learning_rate,
            binary_search_steps=searches,
            max_iterations=steps,
        )

    return _run("carlini_wagner_l2", call, model, x, y, 0, batch_size)


def spsa(
    model: keras.Model,
    x: Tensor,
    y: Tensor,
    *,
    epsilon: float = 8 / 255,
    steps: int = 100,
    samples: int = 128,
    seed: int = 0,
) -> np.ndarray:
    """Runs cleverhans's SPSA, which estimates gradients from logits in an Linf ball, on PyTorch.

    Args:
        model: Keras model that returns logits, shape `(batch, classes)`.
        x: Clean images, shape `(images, height, width, channels)`, in [0, 1]; attacked one by one.
        y: Integer labels, shape `(images,)`.
        epsilon: Radius in pixel units.
        steps: Gradient steps.
        samples: Images a pass and a step, of which the gradient is estimated; even.
        seed: Seed of the global generators.

    Returns:
        Images of the shape of `x`.

    Raises:
        ValueError: If an argument is out of range, or Keras does not run on PyTorch.
        ImportError: If cleverhans is not installed.

    Reference:
        Uesato et al., 2018, https://arxiv.org/abs/1802.05666
    """
    check_epsilon(epsilon, "Linf")
    check_positive_integer("steps", steps)
    check_positive_integer("samples", samples, minimum=2)

    def call(attack, logits, images, labels):
        return attack(
            logits,
            images,
            epsilon,
            steps,
            norm=np.inf,
            clip_min=0.0,
            clip_max=1.0,
            y=labels,
            spsa_samples=samples,
            sanity_checks=False,  # they compare radii without a tolerance for float32
        )

    return _run("spsa", call, model, x, y, seed, 1)


def hop_skip_jump(
    model: keras.Model,
    x: Tensor,
    y: Tensor,
    *,
    steps: int = 64,
    initial_queries: int = 100,
    queries: int = 10000,
    seed: int = 0,
) -> np.ndarray:
    """Runs cleverhans's HopSkipJump, which sees decisions only and looks for the closest image in L2, on PyTorch.

    Its Linf version fails in cleverhans 4.0 on today's PyTorch: it calls `torch.min` on a tensor and a number.

    Args:
        model: Keras model that returns logits, shape `(batch, classes)`.
        x: Clean images, shape `(images, height, width, channels)`, in [0, 1]; attacked one by one.
        y: Integer labels, shape `(images,)`; the attack itself looks at the model's decision on `x`.
        steps: Iterations.
        initial_queries: Decisions asked in the first iteration.
        queries: Decisions asked in one iteration at most.
        seed: Seed of the global generators.

    Returns:
        Images of the shape of `x`, at any distance.

    Raises:
        ValueError: If an argument is out of range, or Keras does not run on PyTorch.
        ImportError: If cleverhans is not installed.

    Reference:
        Chen et al., 2020, https://arxiv.org/abs/1904.02144
    """
    check_positive_integer("steps", steps)

    def call(attack, logits, images, labels):
        return attack(
            logits,
            images,
            2,
            initial_num_evals=initial_queries,
            max_num_evals=queries,
            num_iterations=steps,
            verbose=False,
        )

    return _run("hop_skip_jump_attack", call, model, x, y, seed, 1)


def _run(
    name: str, call: Callable, model: keras.Model, x: Tensor, y: Tensor, seed: int, batch_size: int
) -> np.ndarray:
    attack = _function(name)
    x = check_images(x)
    y = check_labels(y, len(x))
    check_positive_integer("batch_size", batch_size)
    check_positive_integer("seed", seed, minimum=0)
    check_logits(Predictor.of(model).predict(x[:128]), y)
    on_torch = keras.backend.backend() == "torch"
    logits = as_torch_module(model) if on_torch else lambda images: model(images, training=False)
    last = keras.config.image_data_format() == "channels_last"
    images, back = (x.transpose(0, 3, 1, 2), (0, 2, 3, 1)) if on_torch and last and x.ndim == 4 else (x, None)
    keras.utils.set_random_seed(int(seed))  # Keras refuses NumPy's
    found = []
    for start in range(0, len(x), batch_size):
        part = slice(start, start + batch_size)
        # PyTorch's cross-entropy takes labels of 64 bits only.
        labels = ops.convert_to_tensor(y[part], "int64")
        adversarial = call(attack, logits, ops.convert_to_tensor(np.ascontiguousarray(images[part])), labels)
        found.append(ops.convert_to_numpy(adversarial).astype("float32", copy=False))
    x_adv = np.concatenate(found)
    return np.ascontiguousarray(x_adv.transpose(back)) if back else x_adv


def _function(name: str) -> Any:
    package, names = _PACKAGES.get(keras.backend.backend(), (None, ()))
    if name not in names:
        where = "PyTorch or TensorFlow" if name in _PACKAGES["tensorflow"][1] else "PyTorch"
        raise ValueError(
            f"cleverhans's {name} runs on {where} only. Received: the Keras backend {keras.backend.backend()!r}. "
            f"Use keras_robust's {_INSTEAD[name]}, which runs on every backend."
        )
    try:
        return getattr(importlib.import_module(f"{package}.{name}"), name)
    except ImportError as error:
        raise ImportError(
            f"{package} does not import. Install it with pip install 'keras-robust[cleverhans]'."
        ) from error
