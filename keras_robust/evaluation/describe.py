"""What a measurement is, in words and as JSON."""

import dataclasses
from typing import Any


def describe(measurement: Any) -> dict[str, Any]:
    """Returns the name and every option of an attack or a noise, ready for JSON."""
    options = {}
    for field in dataclasses.fields(measurement):
        value = getattr(measurement, field.name)
        options[field.name] = value if isinstance(value, str | int | float | bool | None) else repr(value)
    return {"name": type(measurement).__name__, **options}


def radius(epsilon: float) -> str:
    """Returns a radius in pixel units as the field writes it: `"8/255"` for 0.03137255, but `"0.1"`."""
    digits, levels = f"{epsilon:.4g}", 2 * 255 * epsilon
    if abs(epsilon - float(digits)) < 1e-7 or abs(levels - round(levels)) > 1e-4:
        return digits
    return f"{round(levels) / 2:g}/255"


def short(value: float | None) -> str | None:
    """Returns a number in four digits, None for None."""
    return None if value is None else f"{value:.4g}"
