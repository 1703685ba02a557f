"""Losses for each example, on logits; attacks maximise them, training averages them."""

from keras import ops

from keras_robust.checks import Tensor

_FAR = 1e30  # stands for infinity where infinity - infinity would give NaN


def _is_class(logits, y):
    return ops.equal(ops.expand_dims(ops.cast(y, "int32"), -1), ops.arange(logits.shape[-1], dtype="int32"))


def _true_logit(logits, y):
    return ops.sum(ops.where(_is_class(logits, y), logits, 0.0), axis=-1)


def _best_other_logit(logits, y):
    return ops.max(ops.where(_is_class(logits, y), -_FAR, logits), axis=-1)


def cross_entropy(logits: Tensor, y: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of the softmax of logits.

    It is taken from the odds of the other classes, log(1 + sum of exp(z_j - z_y) over j != y): the difference of
    log-sum-exp and the true logit rounds to 0 once the model is sure, and its gradient to noise that leads attacks
    astray, on each backend elsewhere.

    Args:
        logits: Shape `(batch, classes)`.
        y: Integer labels, shape `(batch,)`.
        label_smoothing: Share of the target that is spread evenly over all classes, the true one included.

    Returns:
        Loss of each example, shape `(batch,)`, in nats.
    """
    true = _true_logit(logits, y)
    others = ops.logsumexp(ops.where(_is_class(logits, y), -_FAR, logits), axis=-1)
    loss = ops.softplus(others - true)
    if label_smoothing:
        loss = loss + label_smoothing * (true - ops.mean(logits, axis=-1))
    return loss


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Largest other logit minus the true one; positive where the example is misclassified.

    Args:
        logits: Shape `(batch, classes)`.
        y: Integer labels, shape `(batch,)`.

    Returns:
        Margin of each example, shape `(batch,)`.
    """
    return _best_other_logit(logits, y) - _true_logit(logits, y)


def targeted_margin(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Logit of the target class minus the true one.

    Args:
        logits: Shape `(batch, classes)`.
        y: Integer labels, shape `(batch,)`.
        target: Integer target classes, shape `(batch,)`.

    Returns:
        Margin of each example, shape `(batch,)`.
    """
    return _true_logit(logits, target) - _true_logit(logits, y)


def _check_classes(name, logits, least):
    if logits.shape[-1] < least:
        raise ValueError(
            f"`loss={name!r}` needs a model of at least {least} classes. "
            f"Received: {logits.shape[-1]} logits. Use loss='margin'."
        )


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Difference of logits ratio; needs three classes or more.

    Args:
        logits: Shape `(batch, classes)`.
        y: Integer labels, shape `(batch,)`.

    Returns:
        Loss of each example, shape `(batch,)`: the margin over the gap of the first to the third logit.

    Reference:
        Croce and Hein, 2020, https://arxiv.org/abs/2003.01690 (equation 6)
    """
    _check_classes("dlr", logits, 3)
    highest = ops.top_k(logits, 3)[0]
    return margin(logits, y) / (highest[:, 0] - highest[:, 2] + 1e-12)


def targeted_dlr(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Difference of logits ratio towards a target class; needs four classes or more.

    Args:
        logits: Shape `(batch, classes)`.
        y: Integer labels, shape `(batch,)`.
        target: Integer target classes, shape `(batch,)`.

    Returns:
        Loss of each example, shape `(batch,)`.

    Reference:
        Croce and Hein, 2020, https://arxiv.org/abs/2003.01690 (equation 7)
    """
    _check_classes("targeted_dlr", logits, 4)
    highest = ops.top_k(logits, 4)[0]
    scale = highest[:, 0] - 0.5 * (highest[:, 2] + highest[:, 3]) + 1e-12
    return targeted_margin(logits, y, target) / scale


def kl(logits_p: Tensor, logits_q: Tensor) -> Tensor:
    """Kullback-Leibler divergence KL(p || q) of two softmax distributions, summed over classes.

    Args:
        logits_p: Logits of p, shape `(batch, classes)`.
        logits_q: Logits of q, shape `(batch, classes)`.

    Returns:
        Divergence of each example, shape `(batch,)`, in nats.
    """
    log_p = ops.log_softmax(logits_p, axis=-1)
    log_q = ops.log_softmax(logits_q, axis=-1)
    return ops.sum(ops.exp(log_p) * (log_p - log_q), axis=-1)


def jensen_shannon(*logits: Tensor) -> Tensor:
    """Jensen-Shannon divergence of two or more softmax distributions, summed over classes.

    The mixture is clipped to [1e-7, 1] before its logarithm, as AugMix's code does.

    Args:
        *logits: Logits of each distribution, shape `(batch, classes)`.

    Returns:
        Divergence of each example, shape `(batch,)`, in nats.

    Reference:
        Hendrycks et al., 2020, https://arxiv.org/abs/1912.02781 (equation 2)
    """
    log_probabilities = [ops.log_softmax(each, axis=-1) for each in logits]
    mixture = sum(ops.exp(each) for each in log_probabilities) / len(logits)
    log_mixture = ops.log(ops.clip(mixture, 1e-7, 1.0))
    terms = [ops.sum(ops.exp(each) * (each - log_mixture), axis=-1) for each in log_probabilities]
    return sum(terms) / len(terms)
