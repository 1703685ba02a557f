import keras
import numpy as np
import pytest

from keras_robust import datasets, models, zoo
from keras_robust.attacks import FGSM
from keras_robust.evaluation import Gaussian, evaluate
from keras_robust.zoo import entry as entry_module
from tests.zoo.local_hub import LocalHub

RECIPE = """
name = "{name}"
seed = 0

[dataset]
name = "digits"

[model]
builder = "kap_cnn"
arguments = {{ depth = 2, pooling = "kap" }}

[training]
epochs = 1
batch_size = 128

[optimizer]
name = "adam"
learning_rate = 0.01

[metadata]
description = "Small test model. Second sentence."
references = ["Bashivan et al., 2022, https://arxiv.org/abs/2210.00062"]
"""
NAME = "kap_cnn_digits.test"
REPOSITORY = "zoo/kap-cnn-digits.test"
SAME_LOGITS = 1e-5  # float32 rounding of the same operations


@pytest.fixture(scope="session")
def trained_entry(tmp_path_factory):
    """Folder of an entry whose weights come from a few training steps on digits."""
    keras.utils.set_random_seed(0)
    folder = tmp_path_factory.mktemp("zoo") / NAME
    folder.mkdir()
    (folder / "recipe.toml").write_text(RECIPE.format(name=NAME))
    data = datasets.load("digits")
    model = models.build("kap_cnn", num_classes=10, input_shape=(8, 8, 1), depth=2, pooling="kap")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(1e-2), loss=loss)
    model.fit(*data.train.take(512), batch_size=128, epochs=1, verbose=0)
    model.save_weights(folder / entry_module.WEIGHTS)
    x, y = data.test.take(40)
    metrics = evaluate(model, x, y, attacks=[FGSM(epsilon=0.05)], noise=[Gaussian(0.1)])
    entry_module.make_entry(folder, model=model, images=x, num_classes=10, metrics=metrics)
    return folder, keras.ops.convert_to_numpy(model(x, training=False)), x


@pytest.fixture
def folder(trained_entry, tmp_path):
    """A copy of that folder that a test may damage."""
    target = tmp_path / NAME
    target.mkdir()
    for path in trained_entry[0].iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


@pytest.fixture
def own_zoo(folder, monkeypatch):
    """A zoo whose only entry is that folder."""
    from keras_robust.zoo import registry

    monkeypatch.setattr(registry, "roots", lambda: [folder.parent])
    return folder


def logits_of(model, x):
    return np.asarray(keras.ops.convert_to_numpy(model(x, training=False)))


@pytest.fixture
def server():
    """A Hub on 127.0.0.1."""
    with LocalHub() as hub:
        yield hub


@pytest.fixture
def published(server, own_zoo):
    """The entry on the server; the own zoo has its weights no more. Returns the publication."""
    from keras_robust.zoo.publish import publish

    publication = publish(NAME, REPOSITORY, endpoint=server.url, token=server.token)
    (own_zoo / entry_module.WEIGHTS).unlink()
    server.requests.clear()
    return publication


@pytest.fixture
def cache(tmp_path):
    """Folder of the downloads."""
    return tmp_path / "cache"


@pytest.fixture
def load(server, cache):
    """`zoo.load` from that server into that cache."""

    def load_from_server(source=NAME, **options):
        return zoo.load(source, **{"cache_dir": cache, "endpoint": server.url, **options})

    return load_from_server


@pytest.fixture
def no_waiting(monkeypatch):
    """The client waits up to 24 s between its attempts; what it does after them is the same without."""
    from huggingface_hub.utils import _http

    class Clock:
        sleep = staticmethod(lambda seconds: None)

    monkeypatch.setattr(_http, "time", Clock)


@pytest.fixture
def is_trained(trained_entry):
    """Checks that a model gives the logits of the trained one."""

    def check(model):
        _, expected, x = trained_entry
        np.testing.assert_allclose(logits_of(model, x), expected, atol=SAME_LOGITS * np.abs(expected).max())

    return check
