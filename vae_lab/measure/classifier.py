"""A classifier of images, for its features and for how it reads what a model makes, and scores by both."""

from __future__ import annotations

import warnings

import torch
from torch import Generator, Tensor

from ..clock import counts_as
from ..data import Dataset
from ..settings import Seed, check
from .diversity import kid, manifold_scores, vendi_score


class Classifier:
    """A small network that names the class of an image, for its features: one hidden layer of 128 units.

    Trained by scikit-learn in 30 passes over at most 10,000 grey training items of `data`, chosen by `seed`.
    Trap: its features see what tells these classes apart, and little else. Raises ValueError for data of one
    class. Source: pedregosa2011scikit.
    """

    @counts_as("evaluation")
    def __init__(self, data: Dataset, seed: int = 0) -> None:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.neural_network import MLPClassifier

        if not isinstance(data, Dataset):
            raise ValueError(f"expected a Dataset, whose labels name the classes, got {type(data).__name__}")
        seed = check("seed", Seed, seed)
        chosen = torch.randperm(len(data.train), generator=Generator().manual_seed(seed))[:10_000]
        classes = data.train_labels[chosen].unique().tolist()
        if len(classes) < 2:
            raise ValueError(f"a classifier needs 2 classes or more; {data.name!r} has {classes}")
        # Not stopped early by items that are held back: with a hundred of them it is chance when that is, and
        # so how certain the network has become by then.
        self.network = MLPClassifier((128,), max_iter=30, alpha=1e-3, random_state=seed % 2**32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # it stops after 30 passes on purpose
            self.network.fit(data.train[chosen].numpy(), data.train_labels[chosen].numpy())

    def features(self, x: Tensor) -> Tensor:
        """What the hidden layer makes of images `x` (..., D): (..., 128), float64."""
        layers = (self.network.coefs_, self.network.intercepts_)
        weights, biases = (torch.as_tensor(layer[0]).double() for layer in layers)
        return torch.relu(self._images(x).double() @ weights + biases)

    def probabilities(self, x: Tensor) -> Tensor:
        """Of each class for images `x` (n, D): (n, C)."""
        return torch.as_tensor(self.network.predict_proba(self._images(x).numpy()))

    def _images(self, x: Tensor) -> Tensor:
        wanted = f"float images (…, {self.network.n_features_in_}), 1 or more and finite"
        if (
            not isinstance(x, Tensor)
            or not x.is_floating_point()
            or x.shape[-1:] != (self.network.n_features_in_,)
        ):
            got = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"expected {wanted}, got {got}")
        if not x.numel() or not x.isfinite().all():
            raise ValueError(
                f"expected {wanted}, got none" if not x.numel() else "the images hold NaN or infinity"
            )
        x = x.detach().cpu()
        return x.to(torch.promote_types(x.dtype, torch.float32))


@counts_as("evaluation")
def image_scores(judge: Classifier, real: Tensor, images: Tensor) -> dict[str, float]:
    """How real and how diverse `images` (n, D) are beside `real` ones (m, D): measure -> score.

    The images are scored in sets of m, as many as there are real ones, and the scores of the n // m whole
    sets are averaged. In the features of `judge`: `manifold_scores` and KID. *Legible* is the share of images
    to which it gives a class with more than 90% certainty. By pixels: the Vendi score, which never looks at
    real images, and pixel precision. Raises ValueError if there is not one whole set.
    """
    if not len(images) >= len(real) > 0:
        raise ValueError(f"expected at least as many images as real ones, got {len(images)} and {len(real)}")
    sets = images[: len(images) - len(images) % len(real)].split(len(real))
    known = judge.features(real)
    scores = [
        {"legible": float((judge.probabilities(part).amax(1) > 0.9).double().mean())}
        | manifold_scores(known, judge.features(part))
        | {"KID": kid(known, judge.features(part)), "Vendi score": vendi_score(part)}
        | {"pixel precision": manifold_scores(real, part)["precision"]}
        for part in sets
    ]
    return {name: sum(one[name] for one in scores) / len(scores) for name in scores[0]}
