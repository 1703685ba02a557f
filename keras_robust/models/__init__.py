"""Architectures: Keras models that map pixels in [0, 1] to logits."""

from keras_robust.models import cnn as cnn
from keras_robust.models import densenet as densenet
from keras_robust.models import mobilenet as mobilenet
from keras_robust.models import preact_resnet as preact_resnet
from keras_robust.models import resnet as resnet
from keras_robust.models import resnext as resnext
from keras_robust.models import wide_resnet as wide_resnet
from keras_robust.models import wm_resnet as wm_resnet
from keras_robust.models.flops import Flops as Flops
from keras_robust.models.flops import flops as flops
from keras_robust.models.registry import build as build
from keras_robust.models.registry import list_models as list_models
from keras_robust.models.registry import model_options as model_options
from keras_robust.models.registry import register_model as register_model
from keras_robust.models.statistics import recalibrate as recalibrate
from keras_robust.models.surgery import fold_kap as fold_kap
from keras_robust.models.surgery import insert_kap as insert_kap
from keras_robust.models.surgery import insert_noise as insert_noise
from keras_robust.models.surgery import replace_convolutions as replace_convolutions
