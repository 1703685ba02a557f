import keras
import numpy as np
import pytest

from keras_robust.attacks import FGSM, PGD, Predictor, cleverhans
from tests.attacks.contract import EPSILON, contract_data, contract_model

BACKEND = keras.backend.backend()
on_torch = pytest.mark.skipif(BACKEND != "torch", reason="cleverhans runs this attack on PyTorch only")
SAME = 1e-5  # float32, the same steps in another order of operations


@pytest.fixture
def gradients_run():
    """Skips where cleverhans cannot run its gradient attacks."""
    if BACKEND == "jax":
        pytest.skip("cleverhans's JAX part does not import")
    pytest.importorskip("cleverhans")


@pytest.fixture(scope="module")
def subject():
    model = contract_model()
    x, _ = contract_data(model)
    x = 0.2 + 0.6 * x  # cleverhans clips to the box before it projects: away from the box the paths agree
    return model, x, Predictor.of(model).predict(x).argmax(1)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_fgsm_equals_the_fast_gradient_method_of_cleverhans(subject, gradients_run, norm):
    theirs = cleverhans.fast_gradient_method(*subject, norm=norm, epsilon=EPSILON[norm])
    np.testing.assert_allclose(FGSM(norm, EPSILON[norm])(*subject), theirs, atol=SAME)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_pgd_takes_the_path_of_cleverhans(subject, gradients_run, norm):
    model, x, y = subject
    options = {"norm": norm, "epsilon": EPSILON[norm], "step_size": EPSILON[norm] / 4, "random_start": False}
    theirs = cleverhans.projected_gradient_descent(model, x, y, **options)
    ours = PGD(**options)

    def last(logits, images, labels):
        return ours.perturb(logits, images, labels, keep_best=False)[0]

    run = Predictor.of(model).compiled(("last", ours), last)
    images, labels = keras.ops.convert_to_tensor(x), keras.ops.convert_to_tensor(y.astype("int32"))
    np.testing.assert_allclose(keras.ops.convert_to_numpy(run(images, labels)), theirs, atol=SAME)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_pgd_breaks_whatever_cleverhans_breaks(subject, gradients_run, norm):
    model, _, y = subject
    options = {"norm": norm, "epsilon": EPSILON[norm], "step_size": EPSILON[norm] / 4, "random_start": False}
    theirs = cleverhans.projected_gradient_descent(*subject, **options)
    broken = Predictor.of(model).predict(theirs).argmax(1) != y
    ours = Predictor.of(model).predict(PGD(**options)(*subject)).argmax(1) != y
    assert broken.any()
    assert (ours | ~broken).all()


def test_the_seed_may_be_numpys(subject, gradients_run):
    found = [
        cleverhans.projected_gradient_descent(*subject, epsilon=0.05, steps=2, seed=seed)
        for seed in (3, np.int64(3))
    ]
    np.testing.assert_array_equal(*found)


@on_torch
def test_carlini_wagner_breaks_everything_closer_than_half_the_box(subject):
    pytest.importorskip("cleverhans")
    model, x, y = subject
    found = cleverhans.carlini_wagner_l2(*subject, steps=30, searches=3)
    assert (Predictor.of(model).predict(found).argmax(1) != y).all()
    assert np.linalg.norm((found - x).reshape(len(x), -1), axis=1).max() < 0.5 * np.sqrt(x[0].size)


@on_torch
def test_spsa_stays_in_the_ball_and_breaks_some_rows(subject):
    pytest.importorskip("cleverhans")
    model, x, y = (subject[0], subject[1][:4], subject[2][:4])
    found = cleverhans.spsa(model, x, y, epsilon=0.05, steps=5, samples=32)
    assert np.abs(found - x).max() <= 0.05 + SAME
    assert (Predictor.of(model).predict(found).argmax(1) != y).any()


@on_torch
def test_hop_skip_jump_breaks_rows_from_decisions_alone(subject):
    pytest.importorskip("cleverhans")
    model, x, y = (subject[0], subject[1][:3], subject[2][:3])
    found = cleverhans.hop_skip_jump(model, x, y, steps=2, queries=200)
    assert found.shape == x.shape
    assert (Predictor.of(model).predict(found).argmax(1) != y).all()


@pytest.mark.parametrize("name", ["carlini_wagner_l2", "spsa", "hop_skip_jump"])
@pytest.mark.skipif(BACKEND == "torch", reason="PyTorch runs these attacks")
def test_what_cleverhans_cannot_do_names_our_alternative(subject, name):
    with pytest.raises(ValueError, match=r"runs on PyTorch only.*Use keras_robust's attacks\.(FAB|Square)"):
        getattr(cleverhans, name)(*subject)


@pytest.mark.skipif(BACKEND != "jax", reason="the other backends run these attacks")
@pytest.mark.parametrize("name", ["fast_gradient_method", "projected_gradient_descent"])
def test_jax_users_are_sent_to_our_attacks(subject, name):
    with pytest.raises(ValueError, match=r"PyTorch or TensorFlow only.*attacks\.(FGSM|PGD)"):
        getattr(cleverhans, name)(*subject)


def test_pgd_of_cleverhans_refuses_l1(subject):
    with pytest.raises(ValueError, match=r"Use attacks\.PGD\(norm='L1'\)"):
        cleverhans.projected_gradient_descent(*subject, norm="L1", epsilon=1.0)


@on_torch
def test_images_with_channels_first_stay_as_they_are(monkeypatch):
    pytest.importorskip("cleverhans")
    monkeypatch.setattr(keras.config, "image_data_format", lambda: "channels_first")
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((3, 4, 5)), keras.layers.Flatten("channels_last"), keras.layers.Dense(3)]
    )
    x = np.random.default_rng(0).uniform(0.2, 0.8, (4, 3, 4, 5)).astype("float32")
    y = Predictor.of(model).predict(x).argmax(1)
    theirs = cleverhans.fast_gradient_method(model, x, y, epsilon=0.1)
    np.testing.assert_allclose(FGSM("Linf", 0.1)(model, x, y), theirs, atol=SAME)


@on_torch
def test_carlini_wagner_takes_a_model_of_ones_own_class():
    pytest.importorskip("cleverhans")

    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.head = keras.layers.Dense(3)

        def call(self, images):
            return self.head(keras.ops.reshape(images, (-1, 12)))

    keras.utils.set_random_seed(0)
    model, x = Net(), np.random.default_rng(0).random((3, 2, 2, 3), dtype="float32")
    model(x)
    y = Predictor.of(model).predict(x).argmax(1)
    assert cleverhans.carlini_wagner_l2(model, x, y, steps=2, searches=1).shape == x.shape
