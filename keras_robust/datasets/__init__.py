"""Image data sets, split as the papers state, in an order that is fixed and fingerprinted."""

from keras_robust.datasets.class_folders import read_class_folders as read_class_folders
from keras_robust.datasets.dataset import Dataset as Dataset
from keras_robust.datasets.dataset import Split as Split
from keras_robust.datasets.pictures import Pictures as Pictures
from keras_robust.datasets.registry import Info as Info
from keras_robust.datasets.registry import info as info
from keras_robust.datasets.registry import list_datasets as list_datasets
from keras_robust.datasets.registry import load as load
from keras_robust.datasets.tensorflow_datasets import data_folder as data_folder
