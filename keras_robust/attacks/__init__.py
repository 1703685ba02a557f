"""Attacks: searches for misclassified images within an Lp ball, under one contract (`Attack`)."""

from keras_robust.attacks.apgd import APGD as APGD
from keras_robust.attacks.base import Attack as Attack
from keras_robust.attacks.base import AttackResult as AttackResult
from keras_robust.attacks.base import Predictor as Predictor
from keras_robust.attacks.fab import FAB as FAB
from keras_robust.attacks.fgsm import FGSM as FGSM
from keras_robust.attacks.pgd import PGD as PGD
from keras_robust.attacks.square import Square as Square
