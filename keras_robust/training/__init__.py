"""Robust training through plain `fit`, and the recipes that describe it."""

from keras_robust.training.adversarial import Adversarial as Adversarial
from keras_robust.training.batches import Batches as Batches
from keras_robust.training.batches import MixedBatches as MixedBatches
from keras_robust.training.batches import ReplayedBatches as ReplayedBatches
from keras_robust.training.early_stopping import RobustEarlyStopping as RobustEarlyStopping
from keras_robust.training.free import FreeAdversarial as FreeAdversarial
from keras_robust.training.objectives import CrossEntropy as CrossEntropy
from keras_robust.training.objectives import Objective as Objective
from keras_robust.training.objectives import Trades as Trades
from keras_robust.training.optimizers import SGD as SGD
from keras_robust.training.optimizers import Adam as Adam
from keras_robust.training.perturbations import GaussianNoiseInput as GaussianNoiseInput
from keras_robust.training.perturbations import Perturbation as Perturbation
from keras_robust.training.recipe import Recipe as Recipe
from keras_robust.training.recipe import load_recipe as load_recipe
from keras_robust.training.recipe import parse_recipe as parse_recipe
from keras_robust.training.schedules import Interpolated as Interpolated
from keras_robust.training.schedules import PiecewiseConstant as PiecewiseConstant
from keras_robust.training.schedules import Triangle as Triangle
from keras_robust.training.subnet_controller import ControllerSearch as ControllerSearch
from keras_robust.training.subnet_search import L1Search as L1Search
from keras_robust.training.subnet_search import RandomSearch as RandomSearch
from keras_robust.training.subnet_search import SubnetSearch as SubnetSearch
from keras_robust.training.trainer import RobustTrainer as RobustTrainer
from keras_robust.training.weak_subnets import WeakSubnets as WeakSubnets
from keras_robust.training.weight_perturbation import AWP as AWP
