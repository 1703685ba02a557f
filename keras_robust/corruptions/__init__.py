"""Common corruptions: generators, readers of the official files, and the errors that summarise them."""

from keras_robust.corruptions.constants import CORRUPTIONS as CORRUPTIONS
from keras_robust.corruptions.constants import SEVERITIES as SEVERITIES
from keras_robust.corruptions.corrupt import corrupt as corrupt
from keras_robust.corruptions.error import PERTURBATIONS as PERTURBATIONS
from keras_robust.corruptions.error import alexnet_mean_corruption_error as alexnet_mean_corruption_error
from keras_robust.corruptions.error import flip_probability as flip_probability
from keras_robust.corruptions.error import mean_corruption_error as mean_corruption_error
from keras_robust.corruptions.error import mean_flip_rate as mean_flip_rate
from keras_robust.corruptions.error import mean_top5_distance as mean_top5_distance
from keras_robust.corruptions.error import top5_distance as top5_distance
from keras_robust.corruptions.readers import read_cifar_c as read_cifar_c
from keras_robust.corruptions.readers import read_imagenet_c as read_imagenet_c
from keras_robust.corruptions.readers import read_imagenet_p as read_imagenet_p
