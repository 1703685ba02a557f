"""Numbers that can be trusted: an accuracy with its attack, images, seed, code, software and error bar."""

import datetime
import functools
import hashlib
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from keras_robust.evaluation.describe import short
from keras_robust.files import write_atomically

Kind = Literal["clean", "attack", "worst_case", "gaussian_noise", "uniform_noise", "certified", "corruption"]


CORRUPTIONS_MEAN = "corruptions, mean"
"""Name of the accuracy over all common corruptions and severities."""


class Record(BaseModel):
    """Base of everything that is written to JSON: immutable, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DataFingerprint(Record):
    """The images behind a number; two numbers are comparable where these agree."""

    dataset: str
    split: str
    order: str = Field(description="What the first image means: 'official', 'library' or 'given'.")
    first_index: int = 0
    count: int
    sha256: str = Field(description="Digest of the pixels as stored and of the labels.")

    @classmethod
    def of(
        cls,
        x: np.ndarray,
        y: np.ndarray,
        *,
        dataset: str = "unnamed",
        split: str = "test",
        order: str = "given",
        first_index: int = 0,
    ) -> "DataFingerprint":
        """Describes images, shape `(images, height, width, channels)`, and their labels."""
        x = np.ascontiguousarray(x, "<f4")
        digest = hashlib.sha256(repr(x.shape).encode())
        digest.update(x.tobytes())
        digest.update(np.ascontiguousarray(y, "<i4").tobytes())
        return cls(
            dataset=dataset,
            split=split,
            order=order,
            first_index=first_index,
            count=len(x),
            sha256=digest.hexdigest(),
        )

    def check(self, images: int) -> None:
        """Raises `ValueError` where this describes another number of images."""
        if self.count != images:
            raise ValueError(
                f"`data` must describe the images in `x`. Expected: data.count={images}. Received: "
                f"data.count={self.count}. Describe these images: DataFingerprint.of(x, y)."
            )

    @classmethod
    def of_test(cls, dataset: str, facts: Mapping[str, Any]) -> "DataFingerprint":
        """Describes test images of a data set from the `facts` that `Split.fingerprint` gives."""
        facts = dict(facts)
        return cls(dataset=dataset, split="test", first_index=facts.pop("first"), **facts)


class Environment(Record):
    """Software and hardware behind a number."""

    code_commit: str = Field(description="Git commit of this package, '+changes' if edited; else its version.")
    backend: str
    backend_version: str
    keras: str
    numpy: str
    python: str
    device: str

    @property
    def short_commit(self) -> str:
        """The commit in a few letters, with a '+' where the code had changes on top."""
        commit = self.code_commit.removesuffix("+changes")
        return commit[:8] + ("+" if commit != self.code_commit else "")

    @classmethod
    def here(cls) -> "Environment":
        """Describes this process."""
        import keras

        from keras_robust import backend

        return cls(
            code_commit=code_commit(),
            backend=keras.backend.backend(),
            backend_version=backend.VERSION,
            keras=keras.__version__,
            numpy=np.__version__,
            python=platform.python_version(),
            device=backend.device_name(),
        )


class Metric(Record):
    """One accuracy, as a fraction, and everything that it takes to repeat it."""

    name: str = Field(description="What was measured, in words, such as 'PGD Linf 0.03137'.")
    kind: Kind
    value: float = Field(ge=0, le=1)
    low: float = Field(
        ge=0,
        le=1,
        description="Lower end of the 95 % Wilson interval over images; for corruptions, whose copies of one "
        "image are not independent, of the normal one.",
    )
    high: float = Field(ge=0, le=1)
    correct: int = Field(ge=0)
    images: int = Field(ge=1)
    norm: str | None = None
    epsilon: float | None = Field(None, description="Radius in pixel units of the norm.")
    sigma: float | None = Field(None, description="Standard deviation, or width of uniform noise, in pixel units.")
    attack: dict[str, Any] | None = Field(None, description="Name and every option of the attack or the noise.")
    flags: list[str] = Field(default_factory=list, description="Warnings that put the number in doubt.")
    cost: dict[str, Any] = Field(default_factory=dict, description="Forward and backward passes, where counted.")
    seed: int
    seconds: float = Field(ge=0)
    date: str
    environment: Environment
    data: DataFingerprint

    @model_validator(mode="after")
    def _is_consistent(self) -> "Metric":
        if self.correct > self.images or abs(self.value - self.correct / self.images) > 1e-9:
            raise ValueError(
                "`value` must be correct / images. "
                f"Received: value={self.value}, correct={self.correct}, images={self.images}. Measure it again."
            )
        return self

    @property
    def label(self) -> str:
        """The name with its radius as the field writes it, such as 'PGD Linf 8/255'."""
        if self.norm is None or self.epsilon is None:
            return self.name
        return self.name.replace(f"{self.norm} {short(self.epsilon)}", f"{self.norm} {radius(self.epsilon)}")

    @classmethod
    def of(cls, correct: int, images: int, **fields: Any) -> "Metric":
        """Builds a metric from a count; `value`, the interval (unless given) and `date` are filled in."""
        low, high = fields.pop("interval", None) or wilson_interval(correct, images)
        fields = {"date": datetime.date.today().isoformat(), **fields}
        return cls(value=correct / images, low=low, high=high, correct=correct, images=images, **fields)


class Metrics(Record):
    """All numbers of one evaluation, in the order in which they were measured."""

    format: Literal[1] = 1
    metrics: list[Metric]

    @property
    def clean(self) -> Metric:
        """The accuracy on the unchanged images."""
        return next(metric for metric in self.metrics if metric.kind == "clean")

    @property
    def flags(self) -> list[str]:
        """Every warning, once."""
        return list(dict.fromkeys(flag for metric in self.metrics for flag in metric.flags))

    def of_kind(self, *kinds: Kind) -> list[Metric]:
        """Returns the metrics of these kinds."""
        return [metric for metric in self.metrics if metric.kind in kinds]

    def save(self, path: str | Path) -> None:
        """Writes `metrics.json`; whoever reads it sees the old file or the new one, never a part."""
        write_atomically(path, self.model_dump_json(indent=2, exclude_defaults=False) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> "Metrics":
        """Reads `metrics.json`.

        Raises:
            ValueError: If the file is not one that `save` wrote.
        """
        try:
            return cls.model_validate_json(Path(path).read_text(encoding="utf-8"))
        except ValidationError as error:
            raise ValueError(
                f"`{path}` is not a valid metrics file. Received: {explain(error)}. "
                "Run `keras-robust evaluate` again."
            ) from error


def radius(epsilon: float) -> str:
    """Returns a radius in pixel units as the field writes it: `"8/255"` for 0.03137255, but `"0.1"`."""
    digits, levels = f"{epsilon:.4g}", 2 * 255 * epsilon
    if abs(epsilon - float(digits)) < 1e-7 or abs(levels - round(levels)) > 1e-4:
        return digits
    return f"{round(levels) / 2:g}/255"


class RobustAccuracy(NamedTuple):
    """The lowest accuracy that was measured within a ball.

    Args:
        epsilon: Radius of the ball in pixel units of the metric's norm.
        metric: The number; its own radius is smaller where an attack within a smaller ball left less.
    """

    epsilon: float
    metric: Metric

    @property
    def within(self) -> str:
        """`" within 0.1"` where the number is of a smaller radius, else empty."""
        return within(self.metric.epsilon or 0.0, self.epsilon)


def within(smaller: float, epsilon: float) -> str:
    """Returns `" within 0.1"` where what counts for a ball was found in a smaller one, else an empty text.

    Args:
        smaller: Radius of the ball in which it was found, in pixel units.
        epsilon: Radius of the ball for which it counts.
    """
    return f" within {radius(smaller)}" if smaller < epsilon - 1e-6 else ""


def robust_accuracy(metrics: Iterable[Metric]) -> list[RobustAccuracy]:
    """Returns, for each norm and radius, the lowest number measured within that ball.

    A ball holds every smaller one, and so the adversarial images that were found there: a number of a smaller
    radius on the same images takes the place of a higher one. Of the numbers of one radius those on the most
    images count.

    Args:
        metrics: Numbers of one model.

    Returns:
        One item for each norm and radius that an attack was measured under, sorted.
    """
    own: dict[tuple[str, float], Metric] = {}
    for metric in metrics:
        if (metric.attack or {}).get("stage"):  # a part of AutoAttack; the whole stands beside it
            continue
        if metric.kind in ("attack", "worst_case") and metric.norm is not None and metric.epsilon is not None:
            key = (metric.norm, round(metric.epsilon, 6))
            held = own.get(key)
            if held is None or (-metric.images, metric.value) <= (-held.images, held.value):
                own[key] = metric
    found = []
    for (norm, size), metric in sorted(own.items(), key=lambda item: item[0]):
        lowest = metric
        for (other_norm, other_size), other in own.items():
            inside = other_norm == norm and other_size < size
            # Attacks may run on the first images only, of the data that all numbers name.
            same_images = (other.data, other.images) == (metric.data, metric.images)
            if inside and same_images and other.value < lowest.value:
                lowest = other
        found.append(RobustAccuracy(metric.epsilon or 0.0, lowest))
    return found


def wilson_interval(correct: int, images: int) -> tuple[float, float]:
    """Returns the 95 % Wilson score interval of a fraction of images.

    Reference:
        Wilson, 1927, https://doi.org/10.1080/01621459.1927.10502953
    """
    from scipy.stats import binomtest

    interval = binomtest(correct, images).proportion_ci(0.95, method="wilson")
    return max(float(interval.low), 0.0), min(float(interval.high), 1.0)


@functools.lru_cache
def code_commit() -> str:
    """Returns the Git commit of this package, with '+changes' where its files differ; else its version."""
    folder = Path(__file__).resolve().parents[1]
    if (folder.parent / ".git").exists():
        try:
            commit = _git(folder, "rev-parse", "HEAD")
            return commit + ("+changes" if _git(folder, "status", "--porcelain", "--", ".") else "")
        except (OSError, subprocess.SubprocessError):
            pass  # Git is not installed, or refuses the folder: the version is the next best name.
    try:
        return "v" + importlib.metadata.version("keras-robust")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()


def explain(error: ValidationError) -> str:
    """Puts pydantic's first complaints on one line."""
    parts = []
    for each in error.errors()[:3]:
        where = ".".join(str(part) for part in each["loc"]) or "file"
        received = (
            "" if isinstance(each["input"], dict | list) else f" (got {json.dumps(each['input'], default=str)})"
        )
        parts.append(f"{where}: {each['msg']}{received}")
    return "; ".join(parts)
