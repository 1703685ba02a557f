"""Measures models: clean, attacked and noisy accuracy with error bars, and what it takes to repeat them."""

from keras_robust.evaluation.further import Certified as Certified
from keras_robust.evaluation.further import Corrupted as Corrupted
from keras_robust.evaluation.metrics import DataFingerprint as DataFingerprint
from keras_robust.evaluation.metrics import Environment as Environment
from keras_robust.evaluation.metrics import Metric as Metric
from keras_robust.evaluation.metrics import Metrics as Metrics
from keras_robust.evaluation.metrics import RobustAccuracy as RobustAccuracy
from keras_robust.evaluation.metrics import robust_accuracy as robust_accuracy
from keras_robust.evaluation.metrics import wilson_interval as wilson_interval
from keras_robust.evaluation.noise import Gaussian as Gaussian
from keras_robust.evaluation.noise import Uniform as Uniform
from keras_robust.evaluation.run import epsilon_sweep as epsilon_sweep
from keras_robust.evaluation.run import evaluate as evaluate
