"""The numbers that entries store come out again, on every backend, whichever one measured them."""

import pytest

from keras_robust.evaluation import evaluate
from keras_robust.evaluation.compare import differs, repeated
from keras_robust.subject import Protocol, open_subject


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kap_cnn_digits.noise_sigma0.1", "resnet8_digits.ews"])
def test_stored_numbers_come_out_again(name):
    subject = open_subject(name)
    protocol = Protocol.of(subject.recipe.evaluation, attacks=["fgsm", "pgd"])
    x, y, data = subject.test_images(protocol.images, None)
    metrics = evaluate(subject.load(), x, y, attacks=protocol.attacks, noise=protocol.noise, data=data)
    pairs = repeated(metrics, subject.stored())
    # The stored worst case is over AutoAttack too.
    assert len(pairs) == sum(metric.kind != "worst_case" for metric in metrics.metrics)
    assert [(now.name, now.value, stored.value) for now, stored in pairs if differs(now, stored)] == []
