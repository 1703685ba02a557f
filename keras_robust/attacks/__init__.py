"""Attacks: searches for misclassified images within an Lp ball, under one contract (`Attack`)."""

from keras_robust.attacks.apgd import APGD as APGD
from keras_robust.attacks.autoattack import AutoAttack as AutoAttack
from keras_robust.attacks.autoattack_result import AutoAttackResult as AutoAttackResult
from keras_robust.attacks.base import Attack as Attack
from keras_robust.attacks.base import AttackResult as AttackResult
from keras_robust.attacks.base import Predictor as Predictor
from keras_robust.attacks.fab import FAB as FAB
from keras_robust.attacks.fgsm import FGSM as FGSM
from keras_robust.attacks.pgd import PGD as PGD
from keras_robust.attacks.repeated import RepeatedAccuracy as RepeatedAccuracy
from keras_robust.attacks.repeated import accuracy_under_noise as accuracy_under_noise
from keras_robust.attacks.repeated import repeated_accuracy as repeated_accuracy
from keras_robust.attacks.square import Square as Square
