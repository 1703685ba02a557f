"""The one way in which this package measures a model: clean, under attack, under noise."""

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_robust import norms
from keras_robust.attacks.base import Predictor
from keras_robust.checks import (
    Tensor,
    check_finite,
    check_images,
    check_labels,
    check_logits,
    check_positive_integer,
)
from keras_robust.digests import digest, digest_of_layers, digest_of_weights
from keras_robust.evaluation.describe import describe, short
from keras_robust.evaluation.further import Certified, Corrupted
from keras_robust.evaluation.metrics import DataFingerprint, Environment, Metric, Metrics
from keras_robust.evaluation.noise import Gaussian, Uniform
from keras_robust.evaluation.state import State

Progress = Callable[[str, int, int, float, str], None]
"""Called with the name of a measurement, rows done, rows in all, the accuracy so far, and what it is at."""

_SLACK = 1e-4  # of epsilon, plus 1e-6 in pixels: float32 sums over up to 150,000 pixels round by less
_EXAMPLES = {
    "attacks": "attacks such as PGD(norm='Linf', epsilon=8 / 255)",
    "noise": "noise such as Gaussian(sigma=0.1)",
    "further": "measurements such as Corrupted()",
}


def evaluate(
    model: keras.Model,
    x: Tensor,
    y: Tensor,
    *,
    attacks: Sequence[Any] = (),
    noise: Sequence[Gaussian | Uniform] = (),
    further: Sequence[Certified | Corrupted] = (),
    seed: int = 0,
    batch_size: int = 250,
    attack_images: int | None = None,
    stages_alone: int = 0,
    data: DataFingerprint | None = None,
    output: str | Path | None = None,
    progress: Progress | None = None,
) -> Metrics:
    """Measures a model on clean, attacked and noisy images.

    An attack gets every image that the model classifies correctly; an image counts as robust if the clean and the
    attacked image are classified correctly. That is recomputed here from predictions, and every attacked image is
    checked to lie in the ball and in [0, 1]. Where several attacks share norm and epsilon, their worst case over
    each image is a number of its own.

    With `output`, state is kept beside it after every batch (`<output>.partial`): a run that was killed goes on
    from there, and the earlier file at `output` stays whole until the new one is complete.

    Args:
        model: Keras model that returns logits, shape `(batch, classes)`.
        x: Images, shape `(images, height, width, channels)`, in [0, 1].
        y: Integer labels, shape `(images,)`.
        attacks: Attacks of `keras_robust.attacks`, each with its options; results do not depend on their order.
        noise: Noise of `keras_robust.evaluation.noise`, each with its level.
        further: Certified accuracy, accuracy under corruptions.
        seed: Seed of everything random.
        batch_size: Images a pass.
        attack_images: First images on which the attacks run, where a large model makes them slow; None for all.
        stages_alone: First images on which each attack of an `AutoAttack` runs alone too, so that masked gradients
            show; 0 for none. The cost of these numbers is what they take beside the sequence.
        data: What the images are; computed from `x` and `y` if None.
        output: Where to write the metrics as JSON.
        progress: Called after each batch.

    Returns:
        The metrics: clean first, then attacks, worst cases, noise and what `further` asks for.

    Raises:
        ValueError: If an argument is wrong, the model does not return logits, or an attack leaves its ball.
    """
    x = check_images(x)
    y = check_labels(y, len(x))
    check_positive_integer("batch_size", batch_size)
    check_positive_integer("seed", seed, minimum=0)
    check_positive_integer("stages_alone", stages_alone, minimum=0)
    if attack_images is not None:
        check_positive_integer("attack_images", attack_images)
    for name, measurements in (("attacks", attacks), ("noise", noise), ("further", further)):
        _check_kind(name, measurements)
    if data is None:
        data = DataFingerprint.of(x, y)
    data.check(len(x))
    job = _Job(model, x, y, int(seed), int(min(batch_size, len(x))), data, output, progress)
    for each in (*attacks, *further):
        if hasattr(each, "check"):  # what it refuses, it refuses now, not after hours of the others
            each.check(job.classes, x.shape[1:])
    attacked = len(x) if attack_images is None else min(attack_images, len(x))
    job.measure_clean()
    # A later attack with the same options would only repeat the number.
    for attack in {_key(attack): attack for attack in attacks}.values():
        if hasattr(attack, "run"):
            job.measure_ensemble(attack, attacked, min(stages_alone, attacked))
        else:
            job.measure_attack(attack, attacked)
    job.add_worst_cases()
    for each in {_key(each): each for each in noise}.values():
        job.measure_noise(each)
    for other in further:
        other.measure(job)
    return job.finish(output)


def epsilon_sweep(attack: Any, epsilons: Sequence[float]) -> list[Any]:
    """Returns the attack at several radii, for a figure; a fixed `step_size` grows with the radius."""
    attacks = []
    for epsilon in epsilons:
        changes: dict[str, Any] = {"epsilon": float(epsilon)}
        if getattr(attack, "step_size", None) is not None:
            changes["step_size"] = attack.step_size * epsilon / attack.epsilon
        attacks.append(dataclasses.replace(attack, **changes))
    return attacks


def _check_kind(name: str, measurements: Sequence[Any]) -> None:
    for each in measurements:
        described = dataclasses.is_dataclass(each) and not isinstance(each, type)
        if not described or not (callable(each) or hasattr(each, "run")):
            raise ValueError(
                f"`{name}` must hold {_EXAMPLES[name]}: instances of a dataclass, whose fields are the options. "
                f"Received: {each!r} of type {type(each).__name__}."
            )


def _key(measurement: Any) -> str:
    return json.dumps(describe(measurement), sort_keys=True)


class _Job:
    """One evaluation under way."""

    def __init__(self, model, x, y, seed, batch_size, data, output, progress):
        self.model, self.x, self.y = model, x, y
        self.seed, self.batch_size, self.data = seed, batch_size, data
        self.progress = progress or (lambda *_: None)
        self.predictor = Predictor.of(model)
        # Before any state is read or written.
        self.classes = check_logits(self.predictor.predict(x[:batch_size], batch_size), y).shape[1]
        self.environment = Environment.here()
        self.metrics: list[Metric] = []
        self.own_states: list[Path] = []
        self.under: dict[tuple, list[tuple[float, np.ndarray, dict]]] = {}
        path = None if output is None else Path(f"{output}.partial")
        context = {
            "weights": digest_of_weights(model),
            "layers": digest_of_layers(model),
            "data": data.sha256,
            "images": None if path is None else digest(x, y),  # of another form than what `data` may hold
            "seed": seed,
            **self.environment.model_dump(),
        }
        self.state = State(path, context)

    def right(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Tells which images are classified correctly; a non-finite logit is an error, not a robust image."""
        logits = self.predictor.predict(x, self.batch_size)
        check_finite(logits)
        return logits.argmax(-1) == y

    def add(self, name, kind, correct, **fields) -> None:
        self.metrics.append(
            Metric.of(
                int(correct.sum()),
                len(correct),
                name=name,
                kind=kind,
                seed=self.seed,
                environment=self.environment,
                data=self.data,
                **fields,
            )
        )

    def measure(self, measurement, name, rows, chunk, step) -> tuple[np.ndarray, dict[str, Any]]:
        """Tells which images stay right, chunk by chunk, from where an interrupted run stopped.

        Args:
            measurement: The attack or the noise.
            name: Its name, for progress.
            rows: Rows that it has to see; the others keep the answer of the clean images.
            chunk: Rows a step; state is saved after each.
            step: Function of rows that tells which of them are right.

        Returns:
            Booleans, shape `(images,)`, and the fields `seconds` and `cost`.
        """
        correct, done, seconds, forward, backward = self.state.get(_key(measurement), self.clean)
        self.progress(name, done, len(rows), float(correct.mean()), "")
        while done < len(rows):
            part = rows[done : done + chunk]
            before = self.predictor.forward_passes, self.predictor.backward_passes
            start = time.perf_counter()
            correct[part] = step(part)
            seconds += time.perf_counter() - start
            forward += self.predictor.forward_passes - before[0]
            backward += self.predictor.backward_passes - before[1]
            done += len(part)
            self.state.put(_key(measurement), correct, done, seconds, forward, backward)
            self.progress(name, done, len(rows), float(correct.mean()), "")
        return correct, {"seconds": round(seconds, 3), "cost": {"forward": forward, "backward": backward}}

    def measure_clean(self) -> None:
        start = time.perf_counter()
        self.clean = self.right(self.x, self.y)
        self.add("clean", "clean", self.clean, seconds=round(time.perf_counter() - start, 3))

    def measure_attack(self, attack, count) -> None:
        options = describe(attack)
        norm, epsilon = options.get("norm"), options.get("epsilon")
        name = " ".join(str(part) for part in (options["name"], norm, short(epsilon)) if part is not None)

        def step(rows):
            x, y = self.x[rows], self.y[rows]
            x_adv = attack(self.model, x, y, seed=self.seed, batch_size=self.batch_size, indices=rows)
            _check_inside(x_adv, x, options)
            return self.right(x_adv, y)

        # Four batches a step: rows that one restart broke leave room in the batches of the next.
        correct, cost = self.measure(attack, name, np.flatnonzero(self.clean[:count]), 4 * self.batch_size, step)
        correct = correct[:count]
        self.add(name, "attack", correct, norm=norm, epsilon=epsilon, attack=options, **cost)
        if epsilon is not None:
            self.under.setdefault((norm, round(epsilon, 6)), []).append((epsilon, correct, options))

    def measure_ensemble(self, attack, count, alone) -> None:
        """Runs AutoAttack: a number after each of its attacks, the last recomputed from the images it returns.

        Then one for each attack alone, on the first `alone` images: what one finds that others miss shows. Its
        cost is what it took beside the sequence.
        """
        options = describe(attack)
        norm, epsilon = options.get("norm"), options.get("epsilon")
        name = f"{options['name']} {norm} {short(epsilon)}"
        result = self.run_ensemble(attack, name, count, alone)
        _check_inside(result.x_adv, self.x[:count], options)
        correct = self.clean[:count] & result.robust & self.right(result.x_adv, self.y[:count])
        # Flags of severity "note" say how the attack adapted itself; they put nothing in doubt.
        notes = [flag.message for flag in result.flags if flag.severity != "warning"]
        options |= {"notes": notes} if notes else {}
        flags = [flag.message for flag in result.flags if flag.severity == "warning"]
        stages = [(stage, value) for stage, value in result.accuracy_after.items() if stage != "clean"]
        for number, (stage, accuracy) in enumerate(stages):
            last = number == len(stages) - 1
            costs = [*result.cost["attacks"].values()] if last else [result.cost["attacks"][stage]]
            self.add(
                name if last else f"{name} after {stage}",
                "attack",
                correct if last else np.arange(count) < round(accuracy * count),
                norm=norm,
                epsilon=epsilon,
                attack=options if last else options | {"stage": stage},
                flags=flags,
                **_cost(costs),
            )
        for stage, accuracy in result.individual.items():
            self.add(
                f"{name}, {stage} alone",
                "attack",
                np.arange(alone) < round(accuracy * alone),
                norm=norm,
                epsilon=epsilon,
                attack=describe(attack) | {"stage": stage, "alone": True},
                **_cost([result.cost["individual"][stage]]),
            )
        if epsilon is not None:
            self.under.setdefault((norm, round(epsilon, 6)), []).append((epsilon, correct, options))

    def run_ensemble(self, attack, name, count, alone):
        """Runs AutoAttack on the first images, with its progress and a state of its own."""

        def progress(stage, left, accuracy, fraction):
            self.progress(name, round(fraction * count), count, accuracy, f"{stage}, {left} left")

        return attack.run(
            self.model,
            self.x[:count],
            self.y[:count],
            seed=self.seed,
            batch_size=self.batch_size,
            state_path=self.own_state(name, describe(attack)),
            progress=progress,
            individual=alone,
        )

    def own_state(self, name: str, options: dict[str, Any]) -> Path | None:
        """Returns where a measurement that resumes by itself keeps its state until the metrics are written.

        Args:
            name: What it is called.
            options: What tells it from others of that name.
        """
        if self.state.path is None:
            return None
        self.state.write()  # what all measurements share is checked before that file is taken up again
        mark = hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()[:8]
        path = self.state.path.with_name(f"{self.state.path.stem}.{name.replace(' ', '_')}.{mark}.partial")
        path.parent.mkdir(parents=True, exist_ok=True)
        self.own_states.append(path)
        return path

    def finish(self, output: str | Path | None) -> Metrics:
        """Writes the metrics, and only then forgets the state."""
        metrics = Metrics(metrics=self.metrics)
        if output is not None:
            metrics.save(output)
            self.state.discard()
            for path in self.own_states:
                path.unlink(missing_ok=True)
        return metrics

    def add_worst_cases(self) -> None:
        for (norm, _), found in self.under.items():
            if len(found) > 1:
                epsilon = max(each for each, _, _ in found)  # 8 / 255 and 0.03137255 are one radius
                correct = np.logical_and.reduce([each for _, each, _ in found])
                options = {"name": "worst case", "attacks": [options for _, _, options in found]}
                name = f"worst case {norm} {short(epsilon)}"
                self.add(name, "worst_case", correct, seconds=0.0, norm=norm, epsilon=epsilon, attack=options)

    def measure_noise(self, noise) -> None:
        options = describe(noise)
        kind = "uniform_noise" if isinstance(noise, Uniform) else "gaussian_noise"
        name = f"{kind.replace('_', ' ')} {short(noise.sigma)}"
        if options.get("rescale", "divide") != "divide":  # the readings have numbers of their own
            name += f" {options['rescale']}"

        def step(rows):
            return self.right(noise(self.x[rows], seed=self.seed, indices=rows), self.y[rows])

        correct, cost = self.measure(noise, name, np.arange(len(self.x)), self.batch_size, step)
        self.add(name, kind, correct, sigma=float(noise.sigma), attack=options, **cost)


def _cost(costs: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the fields `seconds` and `cost` of what parts of an AutoAttack cost together."""
    total = {key: sum(each[key] for each in costs) for key in ("seconds", "forward_passes", "backward_passes")}
    return {
        "seconds": round(total["seconds"], 3),
        "cost": {"forward": total["forward_passes"], "backward": total["backward_passes"]},
    }


def _check_inside(x_adv: np.ndarray, x: np.ndarray, options: dict[str, Any]) -> None:
    name, norm, epsilon = options["name"], options.get("norm"), options.get("epsilon")
    x_adv = np.asarray(x_adv)
    if x_adv.shape != x.shape or not np.isfinite(x_adv).all() or x_adv.min() < 0 or x_adv.max() > 1:
        raise ValueError(
            f"{name} must return images of shape {x.shape} in [0, 1]. Received: shape={x_adv.shape}, "
            f"minimum {x_adv.min():.6g}, maximum {x_adv.max():.6g}. Clip in the attack."
        )
    if norm is None or epsilon is None:
        return
    length = float(
        np.max(keras.ops.convert_to_numpy(norms.get(norm).length(keras.ops.convert_to_tensor(x_adv - x))))
    )
    if length > epsilon * (1 + _SLACK) + 1e-6:
        raise ValueError(
            f"{name} must return images within {norm} distance epsilon={epsilon:.6g} of the clean ones. "
            f"Received: distance {length:.6g}. Project in the attack."
        )
