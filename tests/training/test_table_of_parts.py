"""The table of parts: noise, adversarial training, weight perturbation and weak subnets train together."""

import itertools

import keras
import numpy as np
import pytest

from keras_robust.layers import SubnetSpace
from keras_robust.training import (
    AWP,
    Adversarial,
    ControllerSearch,
    FreeAdversarial,
    GaussianNoiseInput,
    RandomSearch,
    RobustTrainer,
    Trades,
    WeakSubnets,
)
from keras_robust.training.checkpoint import load_state
from keras_robust.training.progress import Checkpoint
from tests.training import nets

METHODS = {
    "standard": lambda: ([], None),
    "at": lambda: ([Adversarial(epsilon=0.05, steps=2, model_mode="train")], None),
    "trades": lambda: ([], Trades(3.0, epsilon=0.05, step_size=0.02, steps=2)),
    "fast_at": lambda: ([Adversarial.fast(epsilon=0.05)], None),
}
NO_YES = (False, True)
TABLE = [
    pytest.param(row, id="-".join(map(str, row)), marks=() if row[0] == row[2] == row[3] else pytest.mark.slow)
    for row in itertools.product(NO_YES, METHODS, NO_YES, NO_YES)
]
SAME_WEIGHTS = 1e-6  # same machine and backend; threads may order sums differently


def make(noise, method, awp, weak_subnets):
    """A trainer of fresh parts; the noise comes after the adversarial examples."""
    perturbations, objective = METHODS[method]()
    model = nets.dense(dropout=0.2)
    terms = []
    if weak_subnets:
        search = ControllerSearch(SubnetSpace(model), hidden=4, interval=3, learning_rate=0.01)
        # With TRADES the paper adds the divergence on clean images too.
        terms = [WeakSubnets(search, clean_weight=0.5 if method == "trades" else 0.0)]
    trainer = RobustTrainer(
        model,
        perturbations=[*perturbations, *([GaussianNoiseInput(0.05)] if noise else [])],
        objective=objective,
        terms=terms,
        weight_perturbation=AWP(0.005, warmup=1) if awp else None,
    )
    return nets.compiled(trainer, 0.1, momentum=0.9)


@pytest.mark.parametrize("row", TABLE)
def test_every_combination_learns_and_goes_on_from_a_checkpoint_to_the_same_weights(row, tmp_path):
    x, y = nets.images(64)
    unbroken = make(*row)
    keep_first = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: (tmp_path / "state").replace(tmp_path / f"state{epoch}")
    )
    losses = nets.fit(
        unbroken, x, y, batch_size=16, epochs=3, callbacks=[Checkpoint(tmp_path / "state", {}, []), keep_first]
    )
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    expected = unbroken.get_weights()
    resumed = make(*row)
    assert load_state(tmp_path / "state0", resumed)["epoch"] == 1
    nets.fit(resumed, x, y, batch_size=16, initial_epoch=1, epochs=3)
    for one, other in zip(expected, resumed.get_weights(), strict=True):
        assert np.isfinite(one).all()
        np.testing.assert_allclose(other, one, atol=SAME_WEIGHTS)


@pytest.mark.parametrize("policy", ["float64", "float32"])
@pytest.mark.parametrize("part", ["adversarial", "trades", "free", "random", "controller"])
def test_parts_train_where_the_default_float_type_is_not_float32(part, policy):
    before = keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy(policy)
    try:
        model = nets.dense()
        searches = {"random": RandomSearch, "controller": ControllerSearch}
        perturbations = {"adversarial": Adversarial(steps=1), "free": FreeAdversarial((16, 6, 6, 1))}
        trainer = RobustTrainer(
            model,
            perturbations=[perturbations[part]] if part in perturbations else [],
            objective=Trades(steps=1) if part == "trades" else None,
            terms=[WeakSubnets(searches[part](SubnetSpace(model)))] if part in searches else [],
        )
        x, y = nets.images(16)
        assert np.isfinite(nets.fit(nets.compiled(trainer, 0.1), x, y, batch_size=16, epochs=1)).all()
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy(before)
