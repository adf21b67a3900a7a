"""A classifier of images, for its features and for how it reads what a model makes."""

from __future__ import annotations

import warnings

import torch
from torch import Generator, Tensor

from ..data import Dataset


class Classifier:
    """A small network that names the class of an image, for its features: one hidden layer of 128 units.

    Trained by scikit-learn on at most 10,000 grey training items of `data`, chosen by `seed`, in seconds.
    Trap: its features see what tells these classes apart, and little else. Source: pedregosa2011scikit.
    """

    def __init__(self, data: Dataset, seed: int = 0) -> None:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.neural_network import MLPClassifier

        chosen = torch.randperm(len(data.train), generator=Generator().manual_seed(seed))[:10_000]
        self.network = MLPClassifier((128,), max_iter=30, alpha=1e-3, early_stopping=True, random_state=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # it stops after 30 passes on purpose
            self.network.fit(data.train[chosen].numpy(), data.train_labels[chosen].numpy())

    def features(self, x: Tensor) -> Tensor:
        """What the hidden layer makes of images `x` (..., D): (..., 128), float64."""
        layers = (self.network.coefs_, self.network.intercepts_)
        weights, biases = (torch.as_tensor(layer[0]).double() for layer in layers)
        return torch.relu(x.double() @ weights + biases)

    def probabilities(self, x: Tensor) -> Tensor:
        """Of each class for images `x` (n, D): (n, C)."""
        return torch.as_tensor(self.network.predict_proba(x.numpy()))
