"""Gradient estimators of E_q[f(z)]: a contract, one file per family, and what they share.

`contract` says what an estimator is and holds the registry. Each family is a file: `path`, `score`, `coupled`
and `discrete`; `adaptive` makes estimators that learn while they are used, and registers none. `families`
takes any distribution apart and builds it again, `costs` checks what is averaged, and `requirements` says
what an estimator needs. Importing the folder registers all other estimators.
"""

from . import path, score, coupled, discrete  # isort: skip (the order of tables)
from .contract import ESTIMATORS, Estimator, estimator, find_estimator, plain_name
from .requirements import reparameterizable

__all__ = [
    "ESTIMATORS",
    "Estimator",
    "coupled",
    "discrete",
    "estimator",
    "find_estimator",
    "path",
    "plain_name",
    "reparameterizable",
    "score",
]
