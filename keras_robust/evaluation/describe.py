"""What a measurement is, in words and as JSON."""

import dataclasses
from typing import Any

import numpy as np


def describe(measurement: Any) -> dict[str, Any]:
    """Returns the name and every option of an attack or a noise, ready for JSON."""
    options = {}
    for field in dataclasses.fields(measurement):
        value = getattr(measurement, field.name)
        value = value.item() if isinstance(value, np.generic) else value
        options[field.name] = value if isinstance(value, str | int | float | bool | None) else repr(value)
    return {"name": type(measurement).__name__, **options}


def short(value: float | None) -> str | None:
    """Returns a number in four digits, None for None."""
    return None if value is None else f"{value:.4g}"
