"""Keras layers that make networks robust, or help to."""

from keras_robust.layers.averaging import averaged_weights as averaged_weights
from keras_robust.layers.batch_normalization import BatchNormalization as BatchNormalization
from keras_robust.layers.conv2d import Conv2D as Conv2D
from keras_robust.layers.dense import Dense as Dense
from keras_robust.layers.gaussian_noise import GaussianNoise as GaussianNoise
from keras_robust.layers.gaussian_noise import noise_at_inference as noise_at_inference
from keras_robust.layers.kernel_average_pooling import KAP as KAP
from keras_robust.layers.kernel_average_pooling import average_over_grid as average_over_grid
from keras_robust.layers.kernel_average_pooling import channel_grid as channel_grid
from keras_robust.layers.kernel_max_pooling import KMP as KMP
from keras_robust.layers.standardize import Standardize as Standardize
from keras_robust.layers.subnet_gate import SubnetGate as SubnetGate
from keras_robust.layers.subnet_gate import SubnetModel as SubnetModel
from keras_robust.layers.subnet_gate import subnet as subnet
from keras_robust.layers.subnet_gate import subnet_gates as subnet_gates
from keras_robust.layers.subnet_space import SubnetSpace as SubnetSpace
from keras_robust.layers.subnet_space import kept_count as kept_count
from keras_robust.layers.weight_map import WeightMap as WeightMap
