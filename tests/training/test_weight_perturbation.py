"""AWP: offsets of the length and direction that the paper states, put on and taken off without a trace."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_robust.training import AWP, SGD, Perturbation, RobustTrainer, Trades
from tests.training import nets

GAMMA = 0.05


class Half(Perturbation):
    def __call__(self, model, x, y, seed):
        return x * 0.5


def perturbed(weights, slopes):
    """Weights after the step of AWP: matrices move by GAMMA times their norm, biases do not."""
    (w, b), (slope, _) = weights, slopes
    return [w + GAMMA * np.linalg.norm(w) * slope / np.linalg.norm(slope), b]


def check_one_step(objective, loss):
    """Compares one step at a rate of 1 with the gradient at the perturbed weights, from finite differences."""
    model, (x, y) = nets.linear(classes=3), nets.vectors(classes=3)
    before = model.get_weights()
    trainer = RobustTrainer(model, objective=objective, weight_perturbation=AWP(GAMMA))
    found = nets.fit(nets.compiled(trainer, 1.0), x, y)
    at = perturbed(before, nets.gradient(lambda weights: loss(weights, x, y), before))
    np.testing.assert_allclose(found, [loss(at, x, y)], rtol=1e-5)
    slopes = nets.gradient(lambda weights: loss(weights, x, y), at)
    for new, old, slope in zip(model.get_weights(), before, slopes, strict=True):
        np.testing.assert_allclose(old - new, slope, rtol=1e-3, atol=1e-5)


def test_a_step_takes_the_gradient_at_the_perturbed_weights_and_applies_it_to_the_weights():
    check_one_step(None, nets.cross_entropy)


def test_with_trades_the_offset_climbs_the_whole_objective():
    objective = Trades(6.0)
    objective.perturbation = Half()
    check_one_step(
        objective,
        lambda weights, x, y: nets.cross_entropy(weights, x, y) + 6.0 * nets.kl(weights, x, 0.5 * x).mean(),
    )


@pytest.mark.parametrize("objective", [None, Trades(steps=1)])
def test_the_offset_comes_off_exactly(objective):
    model, (x, y) = nets.convolutional(dropout=0.5), nets.images()
    before = [weight.copy() for weight in model.get_weights()]
    trainer = RobustTrainer(model, objective=objective, weight_perturbation=AWP(GAMMA))
    nets.fit(nets.compiled(trainer, learning_rate=0.0), x, y, batch_size=8, epochs=2)
    for variable, old, new in zip(model.weights, before, model.get_weights(), strict=True):
        if variable.trainable:
            np.testing.assert_array_equal(new, old)


def test_the_search_for_the_offset_leaves_averages_and_dropout_as_plain_training_does():
    x, y = nets.images()
    results = []
    for part in (None, AWP(1e-9)):
        model = nets.convolutional(dropout=0.5)
        trainer = RobustTrainer(model, weight_perturbation=part)
        nets.fit(nets.compiled(trainer, 0.1), x, y, batch_size=16, epochs=2)
        results.append(model.get_weights())
    for plain, awp in zip(*results, strict=True):
        np.testing.assert_allclose(awp, plain, atol=1e-5)


def test_it_acts_after_the_steps_of_its_warm_up_only():
    model, (x, y) = nets.linear(), nets.vectors()
    trainer = nets.compiled(RobustTrainer(model, weight_perturbation=AWP(GAMMA, warmup=4)))
    losses = nets.fit(trainer, x, y, batch_size=8, epochs=3)  # 2 steps an epoch
    plain = nets.cross_entropy(model.get_weights(), x, y)
    np.testing.assert_allclose(losses[:2], [plain, plain], rtol=1e-5)
    assert losses[2] > plain * 1.01


def test_offsets_have_the_length_of_gamma_times_the_norm_for_kernels_and_none_for_vectors():
    model, (x, y) = nets.convolutional(), nets.images(8)
    part = AWP(GAMMA)

    def loss(values):
        logits, _ = model.stateless_call(
            values, [v.value for v in model.non_trainable_variables], ops.convert_to_tensor(x), training=True
        )
        return ops.mean(ops.square(logits))

    for variable, offset in zip(model.trainable_variables, part(model, x, y, loss), strict=True):
        length = np.linalg.norm(ops.convert_to_numpy(offset))
        norm = np.linalg.norm(ops.convert_to_numpy(variable.value))
        expected = GAMMA * norm if len(variable.shape) > 1 else 0.0
        np.testing.assert_allclose(length, expected, rtol=1e-5)


@pytest.mark.parametrize("scaled", [False, True])
def test_averages_of_weights_that_are_offset_are_refused(scaled):
    x, y = nets.vectors()
    optimizer = SGD(0.1, use_ema=True)
    trainer = RobustTrainer(nets.linear(), weight_perturbation=AWP(GAMMA))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    trainer.compile(keras.optimizers.LossScaleOptimizer(optimizer) if scaled else optimizer, loss)
    with pytest.raises(ValueError, match="Received: `use_ema` of the optimizer"):
        nets.fit(trainer, x, y)


def test_a_constraint_that_would_bound_weights_that_are_offset_is_refused():
    x, y = nets.vectors()
    bounded = keras.layers.Dense(2, kernel_constraint="non_neg", name="bounded")
    model = keras.Sequential([keras.Input((6,)), bounded])
    trainer = nets.compiled(RobustTrainer(model, weight_perturbation=AWP(GAMMA)), 0.1)
    with pytest.raises(ValueError, match=r"a constraint on .*bounded/kernel"):
        nets.fit(trainer, x, y)


def test_an_argument_out_of_range_is_named():
    with pytest.raises(ValueError, match="`gamma`"):
        AWP(0.0)
    with pytest.raises(ValueError, match="`warmup`"):
        AWP(warmup=-1)
