"""The numbers that entries store come out again, on every backend, whichever one measured them."""

import pytest

from keras_robust.evaluation import evaluate
from keras_robust.subject import Protocol, open_subject
from keras_robust.zoo import registry
from keras_robust.zoo.entry import Entry

TOLERANCE = 0.005  # half a point; on the 360 digits one image may turn out otherwise


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kap_cnn_digits.noise_sigma0.1", "resnet8_digits.ews"])
def test_stored_numbers_come_out_again(name):
    subject = open_subject(name)
    protocol = Protocol.of(subject.recipe.evaluation, attacks=["fgsm", "pgd"])
    x, y, data = subject.test_images(protocol.images, None)
    found = evaluate(subject.load(), x, y, attacks=protocol.attacks, noise=protocol.noise, data=data).metrics
    stored = {metric.name: metric for metric in Entry.load(registry.folders()[name]).metrics}
    for metric in found:
        if metric.kind != "worst_case":  # the stored one is over AutoAttack too
            assert metric.data == stored[metric.name].data
            assert metric.value == pytest.approx(stored[metric.name].value, abs=TOLERANCE), metric.name
