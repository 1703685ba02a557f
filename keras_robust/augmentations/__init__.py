"""Augmentations of training images, drawn on the host so that every backend sees the same ones."""

from keras_robust.augmentations.aug_mix import AugMix as AugMix
from keras_robust.augmentations.auto_augment import AutoAugment as AutoAugment
from keras_robust.augmentations.chain import Chain as Chain
from keras_robust.augmentations.crop_flip import CropFlip as CropFlip
from keras_robust.augmentations.random_resized_crop import RandomResizedCrop as RandomResizedCrop
