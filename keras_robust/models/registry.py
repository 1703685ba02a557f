"""Names of the architectures, and the one function that builds them."""

import difflib
import inspect
from collections.abc import Callable

import keras

from keras_robust.checks import check_positive_integer

_BUILDERS: dict[str, Callable[..., keras.Model]] = {}


def register_model(name: str) -> Callable[[Callable[..., keras.Model]], Callable[..., keras.Model]]:
    """Registers a builder `(num_classes, input_shape, *, options) -> keras.Model` under a name.

    Args:
        name: Name of the architecture.

    Returns:
        A decorator that returns the builder unchanged.

    Raises:
        ValueError: If another builder has the name.
    """

    def register(builder: Callable[..., keras.Model]) -> Callable[..., keras.Model]:
        if name in _BUILDERS:
            raise ValueError(f"A model named {name!r} is registered already. Choose another name.")
        _BUILDERS[name] = builder
        return builder

    return register


def list_models() -> list[str]:
    """Lists the names that `build` knows."""
    return sorted(_BUILDERS)


def model_options(name: str) -> dict[str, object]:
    """Returns the options of an architecture and their defaults.

    Args:
        name: Name of the architecture.

    Returns:
        Default of each keyword argument that `build` takes for it.

    Raises:
        ValueError: If no architecture has the name.
    """
    if name not in _BUILDERS:
        raise ValueError(
            f"`name` must be one of {', '.join(list_models())}. "
            f"Received: name={name!r}.{_suggestion(name, list_models())}"
        )
    parameters = inspect.signature(_BUILDERS[name]).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}


def build(name: str, num_classes: int, input_shape: tuple[int, int, int], **options) -> keras.Model:
    """Builds a model that maps pixels in [0, 1] to logits.

    Args:
        name: Name of the architecture, one of `list_models()`.
        num_classes: Number of logits.
        input_shape: Shape of one image, `(height, width, channels)`.
        **options: Options of the architecture, see `model_options(name)`; `seed` fixes the initial weights.

    Returns:
        A functional `keras.Model`, images of shape `(batch, height, width, channels)` to float32 logits of shape
        `(batch, num_classes)`.

    Raises:
        ValueError: If the name or an option is unknown, or a value is out of range.
    """
    known = model_options(name)
    for option in options:
        if option not in known:
            raise ValueError(
                f"Model {name!r} takes the options {', '.join(known)}. "
                f"Received: {option}={options[option]!r}.{_suggestion(option, list(known))}"
            )
    check_positive_integer("num_classes", num_classes, minimum=2)
    if len(input_shape) != 3:
        raise ValueError(
            "`input_shape` must be (height, width, channels), without the batch. "
            f"Received: input_shape={tuple(input_shape)}."
        )
    for size in input_shape:
        check_positive_integer("input_shape", size)
    return _BUILDERS[name](num_classes, tuple(input_shape), **options)


def _suggestion(word: str, choices: list[str]) -> str:
    close = difflib.get_close_matches(word, choices, 1)
    return f" Did you mean {close[0]!r}?" if close else ""
