"""Augmentations of training images, drawn on the host so that every backend sees the same ones."""

from keras_robust.augmentations.crop_flip import CropFlip as CropFlip
from keras_robust.augmentations.random_resized_crop import RandomResizedCrop as RandomResizedCrop
