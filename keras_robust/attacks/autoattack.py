"""AutoAttack: a fixed sequence of complementary attacks, the standard evaluation of the field."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import numpy as np
from keras import ops

from keras_robust import backend, losses, norms
from keras_robust.attacks import sanity
from keras_robust.attacks.apgd import APGD
from keras_robust.attacks.autoattack_result import AutoAttackResult, cost_label
from keras_robust.attacks.autoattack_state import RunState, fingerprint
from keras_robust.attacks.base import Attack, Predictor, attack_stage, bucketed_batches
from keras_robust.attacks.fab import FAB
from keras_robust.attacks.precision import float32_copy, is_mixed
from keras_robust.attacks.repeated import repeated_accuracy
from keras_robust.attacks.square import Square
from keras_robust.checks import (
    Tensor,
    check_choice,
    check_epsilon,
    check_finite,
    check_images,
    check_indices,
    check_labels,
    check_logits,
    check_positive_integer,
)

VERSIONS = {
    "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "plus": ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"),
    "rand": ("apgd-ce", "apgd-dlr"),
    "custom": (),
}
NAMES = ("apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square")
REPEATS = 10  # evaluations of a randomised model on the adversarial images

Progress = Callable[[str, int, float, float], None]
"""Called with the attack's name, the rows not broken yet, the robust accuracy and the fraction of the run done."""


@dataclasses.dataclass(frozen=True)
class AutoAttack:
    """Runs a sequence of attacks, each on what those before it have not broken; the accuracy left is the result.

    Order, budgets and defaults are the reference's: `standard` is APGD on the cross-entropy, APGD and FAB towards
    the nine classes ranked next, and Square; `plus` adds untargeted ones and restarts; `rand` is for randomised
    models. Calling it like any other attack returns the adversarial images alone.

    Differs from the code: images that no attack breaks hold the attacked point of largest margin, not the clean
    image; with fewer than ten classes targeted attacks take the classes that there are.

    Args:
        norm: Shape of the ball, `"Linf"`, `"L2"` or `"L1"`.
        epsilon: Radius in pixel units; `8 / 255`, not 8.
        version: `"standard"`, `"plus"`, `"rand"` or `"custom"`.
        attacks: For `custom`, names among `"apgd-ce"`, `"apgd-dlr"`, `"apgd-t"`, `"fab"`, `"fab-t"`, `"square"`
            (with the budgets of `standard`, else of `plus`), or attacks of the same norm and epsilon.

    Raises:
        ValueError: If an option is out of range.

    Reference:
        Croce and Hein, 2020, https://arxiv.org/abs/2003.01690; for L1, https://arxiv.org/abs/2103.01208
    """

    norm: str = "Linf"
    epsilon: float = 8 / 255
    version: str = "standard"
    attacks: Sequence[str | Attack] | None = None

    def __post_init__(self):
        norms.get(self.norm)
        check_epsilon(self.epsilon, self.norm)
        check_choice("version", self.version, tuple(VERSIONS))
        if (self.version == "custom") != bool(self.attacks):
            raise ValueError(
                "`attacks` must be given for version='custom', and for no other version. "
                f"Received: version={self.version!r}, attacks={self.attacks!r}."
            )
        if self.attacks is not None:
            object.__setattr__(self, "attacks", tuple(self.attacks))
        self.plan()

    def plan(self) -> dict[str, Attack]:
        """Returns the attacks in their order, by name."""
        plan: dict[str, Attack] = {}
        for entry in self.attacks or VERSIONS[self.version]:
            name, attack = (entry, self._named(entry)) if isinstance(entry, str) else (None, entry)
            self._check_fits(attack)
            name = name or type(attack).__name__.lower()
            same = sum(other.split("#")[0] == name for other in plan)
            plan[f"{name}#{same + 1}" if same else name] = attack
        return plan

    def check(self, num_classes: int, shape: tuple[int, ...]) -> None:
        """Raises `ValueError` where one of the attacks does; see `Attack.check`."""
        for attack in self.plan().values():
            attack.check(num_classes, shape)

    def _named(self, name):
        check_choice("attacks", name, NAMES)
        ball = {"norm": self.norm, "epsilon": self.epsilon}
        plus, many = self.version == "plus", {"standard": self.norm == "L1", "custom": self.norm == "L1"}
        sparse = many.get(self.version, False)  # the reference's own settings for L1
        climb = {"large_epsilon_schedule": sparse, "eot": 20 if self.version == "rand" else 1}
        if name == "apgd-ce":
            return APGD(**ball, **climb, restarts=5 if plus or sparse else 1)
        if name == "apgd-dlr":
            return APGD(**ball, **climb, loss="dlr", restarts=1 if self.version == "rand" else 5)
        if name == "apgd-t":
            return APGD(**ball, **climb, loss="targeted_dlr", targets=5 if sparse else 9)
        if name == "fab":
            return FAB(**ball, targeted=False, restarts=5)
        if name == "fab-t":
            return FAB(**ball, targeted=True, targets=9)
        return Square(**ball, queries=5000, all_positions=False)

    def _check_fits(self, attack):
        if not isinstance(attack, Attack):
            raise ValueError(
                f"`attacks` must hold names among {', '.join(NAMES)}, or attacks such as PGD(...). "
                f"Received: {attack!r} of type {type(attack).__name__}."
            )
        found = getattr(attack, "norm", self.norm), getattr(attack, "epsilon", self.epsilon)
        if found != (self.norm, self.epsilon):
            raise ValueError(
                "Every attack must search the ball of AutoAttack itself, or accuracies cannot be compared. "
                f"Expected: norm={self.norm!r}, epsilon={self.epsilon!r}. Received: {attack!r}."
            )

    def __call__(
        self,
        model: keras.Model,
        x: Tensor,
        y: Tensor,
        *,
        seed: int = 0,
        batch_size: int = 250,
        indices: Sequence[int] | None = None,
    ) -> np.ndarray:
        """Returns the adversarial images alone; see `run` and `Attack`."""
        return self.run(model, x, y, seed=seed, batch_size=batch_size, indices=indices).x_adv

    def run(
        self,
        model: keras.Model,
        x: Tensor,
        y: Tensor,
        *,
        seed: int = 0,
        batch_size: int = 250,
        individual: bool | int = False,
        state_path: str | Path | None = None,
        progress: Progress | None = None,
        indices: Sequence[int] | None = None,
    ) -> AutoAttackResult:
        """Evaluates the model.

        Args:
            model: Keras model that returns logits, shape `(batch, classes)`. One in mixed precision is attacked
                as it is, and an image counts as broken where a float32 copy misclassifies it too.
            x: Clean images, shape `(images, height, width, channels)`, in [0, 1].
            y: Integer labels, shape `(images,)`.
            seed: Integer seed of everything random.
            batch_size: Images a pass; results do not depend on it beyond rounding.
            individual: Whether each attack's accuracy alone is measured too, on all images or the first so many:
                in the end it attacks those that others had broken before its turn came.
            state_path: File that the run writes as it goes; where it exists, the run goes on from it.
            progress: Called after each batch; see `Progress`.
            indices: Index of each image in the evaluated set, shape `(images,)`; `range(images)` by default.

        Returns:
            Accuracies, adversarial images, flags and cost.

        Raises:
            ValueError: If an argument has the wrong shape, type or range, the model does not return logits, or the
                state file is that of another run or damaged; the file is left as it is.
        """
        x = check_images(x)
        y = check_labels(y, len(x))
        check_positive_integer("batch_size", batch_size)
        check_positive_integer("seed", seed, minimum=0)
        alone = len(x) * individual if isinstance(individual, bool) else individual
        check_positive_integer("individual", alone, minimum=0)
        images = check_indices(indices, len(x))
        predictor = Predictor.of(model)
        classes = check_logits(predictor.predict(x[:batch_size], min(batch_size, len(x))), y).shape[1]
        run = _Run(self, model, x, y, images, seed, min(batch_size, len(x)), min(alone, len(x)), progress, classes)
        return run.finish(state_path)


class _Run:
    """One evaluation under way.

    Its rounds are the attacks in sequence, then, if wanted, each alone. An image that an attack saw in sequence
    it would attack to the same end alone: what is left for the second is what earlier attacks had broken.
    """

    def __init__(self, auto, model, x, y, images, seed, batch_size, individual, progress, classes):
        self.auto, self.model, self.x, self.y, self.images = auto, model, x, y, images
        self.seed, self.batch_size, self.individual, self.classes = seed, batch_size, individual, classes
        self.progress = progress or (lambda *_: None)
        self.plan = auto.plan()
        auto.check(classes, x.shape[1:])  # what an attack refuses, it refuses now, not when its turn comes
        self.rounds = [*self.plan.items()] * (2 if individual else 1)
        self.predictor = Predictor.of(model)
        # A weak reference is all that a predictor holds, so the copy must live as long as the run.
        self.judge_model, self.judge_note = _judge(model)
        self.judge = Predictor.of(self.judge_model)

    def finish(self, state_path):
        path = None if state_path is None else Path(state_path)
        attacks = [f"{name}: {attack!r}" for name, attack in self.plan.items()]
        mark = fingerprint(
            self.model, self.x, self.y, self.images, attacks=attacks, seed=self.seed, individual=self.individual
        )
        if path is not None and path.exists():
            state = RunState.load(path, mark)
        else:
            state = RunState.start(self.x, self.clean(), len(self.rounds))
        flags = self.flags_before()
        for turn, (name, attack) in enumerate(self.rounds):
            if turn >= state.attack:
                self.attack(state, turn, name, attack, path, mark)
        return self.result(state, flags)

    def rows(self, state, turn):
        """Images that a round has to attack."""
        count, first = len(self.plan), np.arange(len(self.x)) < self.individual
        if turn < count:
            return state.correct & ~state.broken.any(axis=0)
        return state.correct & first & state.broken[: turn - count].any(axis=0) & ~state.broken[turn]

    def attack(self, state, turn, name, attack, path, mark):
        stages, number = attack.stages(self.classes), turn % len(self.plan)
        seed = int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0])
        while state.stage < stages:
            if state.left is None:
                state.left = np.flatnonzero(self.rows(state, turn))
            total = max(len(state.left), 1)
            counts = self.predictor.forward_passes, self.predictor.backward_passes
            begun = time.perf_counter()
            rows = (self.x, self.y, state.left, state.stage, seed, self.batch_size, self.images)
            for part, found, _, _ in attack_stage(attack, self.predictor, *rows):
                margin, wrong = self.verdict(found, self.y[part], 1 + number * 1000 + state.stage)
                state.merge(turn, part, found, margin, wrong)
                state.left = state.left[len(part) :]
                now = time.perf_counter()
                state.seconds[turn] += now - begun
                state.forward[turn] += self.predictor.forward_passes - counts[0]
                state.backward[turn] += self.predictor.backward_passes - counts[1]
                counts = self.predictor.forward_passes, self.predictor.backward_passes
                if path is not None:
                    state.save(path, mark)
                done = (state.stage + 1 - len(state.left) / total) / stages
                robust = state.correct & ~state.broken.any(axis=0)
                self.progress(name, int(robust.sum()), float(robust.mean()), (turn + done) / len(self.rounds))
                begun = time.perf_counter()
            state.stage, state.left = state.stage + 1, None
        state.attack, state.stage = turn + 1, 0
        if path is not None:
            state.save(path, mark, force=True)

    def verdict(self, x, y, tick):
        """Margin of each image, and whether it is misclassified, in float32; logits must be finite."""
        judge = self.judge.compiled("autoattack_judge", _judged)
        margins, wrong = [], []
        for rows, batch in bucketed_batches(np.arange(len(x)), self.batch_size):
            if self.judge is self.predictor:
                self.predictor.count(forward=len(batch))
            inputs = (ops.convert_to_tensor(x[batch]), ops.convert_to_tensor(y[batch]))
            with backend.full_precision():
                margin, predicted, outputs = judge(*inputs, ops.convert_to_tensor(tick, "int32"))
            check_finite(outputs)
            margins.append(ops.convert_to_numpy(margin)[: len(rows)])
            wrong.append(ops.convert_to_numpy(predicted)[: len(rows)] != y[rows])
        return np.concatenate(margins), np.concatenate(wrong)

    def clean(self):
        correct = ~self.verdict(self.x, self.y, 0)[1]
        if self.judge is not self.predictor:
            logits = self.predictor.predict(self.x, self.batch_size)
            correct &= check_logits(logits, self.y).argmax(axis=1) == self.y
        return correct

    def flags_before(self):
        targets = [attack.targets for attack in self.plan.values() if getattr(attack, "targeted", False)]
        flags = sanity.check_model(
            self.model,
            self.x,
            self.y,
            targets=max(targets, default=None),
            batch_size=self.batch_size,
        )
        losses_used = {getattr(attack, "loss", None) for attack in self.plan.values()}
        for loss, needed in (("dlr", 3), ("targeted_dlr", 4)):
            if loss in losses_used and self.classes < needed:
                message = (
                    f"The loss '{loss}' needs {needed} classes, not {self.classes}; the margin of the logits, "
                    "without its denominator, takes its place."
                )
                flags.append(sanity.Flag("few_classes", self.classes, message, severity="note"))
        return flags + self.judge_note

    def result(self, state, flags):
        names = list(self.plan)
        robust = state.correct & ~state.broken.any(axis=0)
        after = {"clean": float(state.correct.mean())}
        for number, name in enumerate(names):
            after[name] = float((state.correct & ~state.broken[: number + 1].any(axis=0)).mean())
        alone = {}
        if self.individual:
            broken = state.broken[: len(names)] | state.broken[len(names) :]
            left = (state.correct & ~broken)[:, : self.individual].mean(axis=1)
            alone = dict(zip(names, left.tolist(), strict=True))
        randomized, repeated = any(flag.name == "randomized" for flag in flags), None
        accuracy = float(robust.mean())
        if randomized:
            repeated = repeated_accuracy(
                self.model, state.x_adv, self.y, repeats=REPEATS, batch_size=self.batch_size
            )
        else:
            again = state.correct & ~self.verdict(state.x_adv, self.y, 0)[1]
            accuracy = float(again.mean())
            if (again != robust).any():
                flags.append(_not_reproduced(int((again != robust).sum()), len(robust)))
        if self.auto.version == "rand":
            flags = [flag for flag in flags if flag.name != "randomized"]
        attacked = {name: value for name, value in after.items() if name != "clean"}
        # The attacks alone may have seen the first images only.
        square = sanity.square_beats_white_box(attacked) or sanity.square_beats_white_box(alone)
        return AutoAttackResult(
            norm=self.auto.norm,
            epsilon=self.auto.epsilon,
            version=self.auto.version,
            attacks={name: repr(attack) for name, attack in self.plan.items()},
            clean_accuracy=after["clean"],
            robust_accuracy=accuracy,
            accuracy_after=after,
            individual=alone,
            repeated=repeated,
            x_adv=state.x_adv,
            robust=robust,
            flags=flags + ([square] if square else []),
            cost=cost_label(state, names, self.seed, self.batch_size),
        )


def _judge(model):
    if not is_mixed(model):
        return model, []
    copy = float32_copy(model)
    if copy is not None:
        return copy, []
    message = "The model computes in low precision and cannot be copied in float32: nothing was re-checked."
    return model, [sanity.Flag("low_precision", 1.0, message)]


def _judged(logits, x, y, tick):
    outputs = logits(x, tick)
    return losses.margin(outputs, y), ops.argmax(outputs, axis=-1), outputs


def _not_reproduced(count, total):
    message = (
        f"{count} of {total} verdicts changed when the adversarial images were classified again: the model's "
        "outputs depend on more than its input."
    )
    return sanity.Flag("not_reproduced", count / total, message)
