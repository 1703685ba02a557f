"""From names and numbers, as recipes and the command line give them, to attacks and noise."""

import dataclasses
import difflib
from collections.abc import Iterable
from typing import Any

from keras_robust import attacks as attacks_package
from keras_robust.checks import check_choice
from keras_robust.evaluation.noise import Gaussian, Uniform


def attack_classes() -> dict[str, type]:
    """Returns every attack of `keras_robust.attacks` by its name in small letters."""
    kinds = (attacks_package.Attack, attacks_package.AutoAttack)
    public = {name: getattr(attacks_package, name) for name in dir(attacks_package) if not name.startswith("_")}
    return {
        name.lower(): value
        for name, value in public.items()
        if isinstance(value, type) and dataclasses.is_dataclass(value) and issubclass(value, kinds)
    }


def attack_options(name: str) -> list[str]:
    """Returns the names of an attack's options.

    Raises:
        ValueError: If there is no such attack; close names are suggested.
    """
    known = attack_classes()
    if name.lower() not in known:
        close = difflib.get_close_matches(name.lower(), known, n=2, cutoff=0.5)
        hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
        raise ValueError(f"`attacks` must be among {', '.join(sorted(known))}. Received: {name!r}.{hint}")
    return [field.name for field in dataclasses.fields(known[name.lower()])]


def make_attacks(name: str, *, epsilon: float | Iterable[float], **options: Any) -> list[Any]:
    """Returns an attack at each radius.

    Args:
        name: Name of the attack, such as 'pgd'; case does not matter.
        epsilon: Radius in pixel units, or several.
        **options: Other options of the attack; None stands for its default.

    Returns:
        One attack for each radius.

    Raises:
        ValueError: If the name or an option is unknown, or a value is out of range.
    """
    fields = attack_options(name)
    attack = attack_classes()[name.lower()]
    options = {option: value for option, value in options.items() if value is not None}
    for option, value in options.items():
        if option not in fields:
            raise ValueError(
                f"Attack '{name}' takes the options {', '.join(fields)}. Received: {option}={value!r}. Remove it."
            )
    radii = [epsilon] if isinstance(epsilon, int | float) else list(epsilon)
    return [attack(epsilon=radius, **options) for radius in radii]


def make_noise(kind: str, levels: Iterable[float]) -> list[Gaussian | Uniform]:
    """Returns 'gaussian' or 'uniform' noise at each level: sigma, or the upper bound of uniform noise."""
    check_choice("noise", kind, ("gaussian", "uniform"))
    return [Gaussian(level) if kind == "gaussian" else Uniform(level) for level in levels]


def parse_numbers(name: str, text: str) -> list[float]:
    """Reads numbers such as '0.5,1' or '8/255'.

    Raises:
        ValueError: If a part is not a number or a fraction.
    """
    numbers = []
    for part in text.split(","):
        above, _, below = part.partition("/")
        try:
            numbers.append(float(above) / float(below or 1))
        except (ValueError, ZeroDivisionError):
            raise ValueError(
                f"`{name}` must be numbers or fractions with commas between, such as 0.5,1 or 8/255. "
                f"Received: {text!r}."
            ) from None
    return numbers
