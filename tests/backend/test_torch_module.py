import keras
import numpy as np
import pytest

from keras_robust.attacks import PGD, Predictor
from keras_robust.backend.torch_module import as_torch_module
from keras_robust.layers import WeightMap
from tests.attacks.contract import contract_data, contract_model

on_torch = pytest.mark.skipif(keras.backend.backend() != "torch", reason="wraps models of the PyTorch backend")


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="PyTorch can wrap the model")
def test_another_backend_is_told_to_change_to_torch():
    with pytest.raises(ValueError, match="Set the environment variable KERAS_BACKEND=torch"):
        as_torch_module(contract_model())


@pytest.fixture
def wrapped():
    torch = pytest.importorskip("torch")
    model = contract_model()
    x, y = contract_data(model)
    images = torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).requires_grad_(True)
    return torch, model, x, y, images


@on_torch
def test_the_module_gives_the_logits_of_the_model_in_train_mode_too(wrapped):
    _, model, x, _, images = wrapped
    module = as_torch_module(model)
    expected = Predictor.of(model).predict(x)
    for mode in (module.eval(), module.train()):
        np.testing.assert_array_equal(mode(images).detach().numpy(), expected)


@on_torch
def test_the_gradient_reaches_the_images_contiguously_and_is_right(wrapped):
    torch, model, _, _, images = wrapped
    module = as_torch_module(model)
    (gradient,) = torch.autograd.grad(module(images)[:, 0].sum(), images)
    assert gradient.is_contiguous()  # attacks call `view` on it
    step = 1e-2 * gradient / gradient.norm()
    with torch.no_grad():
        rise = (module(images + step) - module(images - step))[:, 0].sum() / 2
    assert rise.item() == pytest.approx((gradient * step).sum().item(), rel=1e-2)  # central difference in float32


@on_torch
def test_frozen_parameters_take_no_gradient_and_the_model_keeps_its_own(wrapped):
    _, model, _, _, images = wrapped
    frozen, free = as_torch_module(model), as_torch_module(model, frozen=False)
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    free(images).sum().backward()
    assert all(parameter.grad is not None for parameter in free.parameters())
    assert all(variable.value.requires_grad for variable in model.trainable_variables)


@on_torch
def test_the_module_follows_the_weights_of_the_model(wrapped):
    _, model, _, _, images = wrapped
    module = as_torch_module(model)
    model.layers[-1].bias.assign(model.layers[-1].bias + 3.0)
    np.testing.assert_array_equal(
        module(images).detach().numpy(), Predictor.of(model).predict(images.detach().numpy().transpose(0, 2, 3, 1))
    )


@on_torch
def test_pyautoattack_breaks_the_module_no_less_than_pgd_does(wrapped):
    autoattack = pytest.importorskip("pyautoattack")
    torch, model, x, y, images = wrapped
    attack = autoattack.AutoAttack(
        as_torch_module(model), eps=0.02, norm="Linf", seed=0, version="custom", attacks=["apgd-ce"]
    )
    attack.verbose = False
    found = attack.run_standard_evaluation(images.detach(), torch.from_numpy(y).long(), batch_size=len(y))
    found = (found if isinstance(found, torch.Tensor) else found[0]).numpy().transpose(0, 2, 3, 1)
    broken = {
        name: (Predictor.of(model).predict(each).argmax(1) != y).sum()
        for name, each in {"theirs": found, "ours": PGD("Linf", 0.02)(model, x, y)}.items()
    }
    assert broken["theirs"] >= broken["ours"] > 0


@on_torch
@pytest.mark.parametrize("tool", ["torchattacks", "foolbox"])
def test_other_tools_attack_the_module_as_our_pgd_does(wrapped, tool):
    library = pytest.importorskip(tool)
    torch, model, x, y, images = wrapped
    module, labels = as_torch_module(model), torch.from_numpy(y).long()
    if tool == "torchattacks":
        attack = library.PGDL2(module, eps=0.15, alpha=0.0375, steps=10, random_start=False)
        found = attack(images.detach(), labels)
    else:
        attack = library.attacks.L2PGD(abs_stepsize=0.0375, steps=10, random_start=False)
        wrapper = library.PyTorchModel(module, bounds=(0, 1), device="cpu")
        found = attack(wrapper, images.detach(), labels, epsilons=0.15)[1]
    predictor = Predictor.of(model)
    theirs = predictor.predict(found.numpy().transpose(0, 2, 3, 1)).argmax(1) != y
    ours = PGD("L2", 0.15, step_size=0.0375, random_start=False)(model, x, y)
    np.testing.assert_array_equal(predictor.predict(ours).argmax(1) != y, theirs)


@on_torch
def test_a_model_whose_call_does_not_know_training_is_wrapped():
    torch = pytest.importorskip("torch")

    class KnowsNothingOfTraining(keras.Model):
        def __init__(self):
            super().__init__()
            self.norm = keras.layers.BatchNormalization(epsilon=0.0)

        def call(self, inputs):
            return keras.ops.reshape(self.norm(inputs), (-1, 12))

    model, images = KnowsNothingOfTraining(), torch.rand((5, 3, 2, 2))
    model(np.zeros((1, 2, 2, 3), "float32"))
    logits = as_torch_module(model).train()(images)
    torch.testing.assert_close(logits, images.permute(0, 2, 3, 1).reshape(5, 12))


@on_torch
def test_a_weight_map_can_be_traced_for_export():
    torch = pytest.importorskip("torch")
    # As `model.export(path, format="onnx")` does, which stopped at its gradient.
    module = keras.Sequential([keras.Input((8, 8, 2)), WeightMap(3), keras.layers.Flatten()])
    x = torch.rand(2, 8, 8, 2)
    traced = torch.jit.trace(module, x)
    np.testing.assert_allclose(traced(x).detach(), module(x).detach(), rtol=1e-5, atol=1e-6)
