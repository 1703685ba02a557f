"""Certified robustness in L2: randomised smoothing, and its accuracy against the radius."""

from keras_robust.certification.curve import certified_accuracy as certified_accuracy
from keras_robust.certification.curve import certified_accuracy_figure as certified_accuracy_figure
from keras_robust.certification.curve import certified_accuracy_table as certified_accuracy_table
from keras_robust.certification.smoothing import ABSTAIN as ABSTAIN
from keras_robust.certification.smoothing import Certificates as Certificates
from keras_robust.certification.smoothing import SmoothedClassifier as SmoothedClassifier
from keras_robust.certification.smoothing import lower_confidence_bound as lower_confidence_bound
