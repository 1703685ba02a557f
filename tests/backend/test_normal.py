import keras
import numpy as np
import pytest
from keras import ops
from scipy import stats

from keras_robust import backend
from keras_robust.backend import counter_normal


def key(*words):
    return ops.convert_to_tensor(np.array(words, "uint32").view("int32"))


def test_normal_numbers_follow_the_normal_distribution():
    z = ops.convert_to_numpy(backend.jit(lambda k: backend.normal((501, 999), k))(key(1, 2**31 + 5))).astype(
        "float64"
    )
    n = z.size
    assert stats.kstest(z.ravel(), "norm").pvalue > 1e-4
    assert abs((z**2).mean() - 1) < 5 * np.sqrt(2 / n)  # five standard errors of each moment
    assert abs((z**4).mean() - 3) < 5 * np.sqrt(96 / n)
    assert abs(np.corrcoef(z.ravel()[:-1], z.ravel()[1:])[0, 1]) < 5 / np.sqrt(n)
    half = n // 2
    assert abs(np.corrcoef(z.ravel()[:half], z.ravel()[-half:])[0, 1]) < 5 / np.sqrt(half)


def test_normal_numbers_depend_on_both_words_of_the_key_alone():
    draw = backend.jit(lambda k: backend.normal((50,), k))
    first = ops.convert_to_numpy(draw(key(3, 4)))
    assert np.array_equal(first, ops.convert_to_numpy(draw(key(3, 4))))
    for other in (key(3, 5), key(4, 4), key(4, 3)):
        assert abs(np.corrcoef(first, ops.convert_to_numpy(draw(other)))[0, 1]) < 0.7  # five standard errors


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="PyTorch draws with its own generator")
def test_threefry_gives_the_known_answer_of_its_authors():
    zero = ops.zeros((1,), dtype="uint32")
    x0, x1 = counter_normal._threefry(zero, zero, zero)
    # kat_vectors of Random123: threefry2x32, 13 rounds, counter and key 0.
    assert [int(ops.convert_to_numpy(x)[0]) for x in (x0, x1)] == [0x9D1C5EC6, 0x8BD50731]
