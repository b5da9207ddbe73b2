"""The baselines a network has to beat on the same rows: rules every trader knows, a linear model, boosted trees.

Each model is fitted on the train rows and returns probabilities (n, P), laid out as :mod:`market.heads` defines.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from market import heads
from training.fitting.plan import class_frequencies
from training.models.heads import Floats

Labels = NDArray[np.int8]

_BUCKETS = 5


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows to learn from: ``features`` (n, F) raw, ``labels`` (n, K, 3), ``names`` of the F features."""

    features: Floats
    labels: Labels
    names: tuple[str, ...]

    def thinned(self, most: int) -> Rows:
        """At most ``most`` rows, evenly spread over time."""
        if len(self.features) <= most:
            return self
        pick = np.linspace(0, len(self.features) - 1, most).astype(int)
        return Rows(features=self.features[pick], labels=self.labels[pick], names=self.names)

    def column(self, name: str) -> Floats:
        return self.features[:, self.names.index(name)]


Fitted = Callable[[Floats], Floats]  # features (n, F) to class probabilities (n, C)


def prior(train: Rows, features: Floats) -> Floats:
    """The frequencies of the train rows, whatever the market does."""
    return _by_bucket(np.zeros(len(train.features), int), train.labels, np.zeros(len(features), int))


def imbalance_rule(train: Rows, features: Floats) -> Floats:
    """Queue imbalance at the touch decides: frequencies of the train rows by fifth of the imbalance."""
    return _rule("imbalance_1", train, features)


def last_move_rule(train: Rows, features: Floats) -> Floats:
    """The last half second's move continues: frequencies of the train rows by the sign of the return."""
    column = train.names.index("ret_500ms")
    return _by_bucket(
        np.sign(train.features[:, column]).astype(int) + 1, train.labels, np.sign(features[:, column]).astype(int) + 1
    )


def logistic(train: Rows, features: Floats, *, seed: int) -> Floats:
    """Logistic regression on standardised features, one a head and horizon."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def fit(x: Floats, y: Labels) -> Any:
        return make_pipeline(StandardScaler(), LogisticRegression(max_iter=200, random_state=seed)).fit(x, y)

    return _one_a_head(fit, train, features)


def boosted_trees(train: Rows, features: Floats, *, seed: int, rounds: int = 80) -> Floats:
    """LightGBM, one a head and horizon."""
    from lightgbm import LGBMClassifier

    def fit(x: Floats, y: Labels) -> Any:
        model = LGBMClassifier(
            n_estimators=rounds,
            learning_rate=0.07,
            num_leaves=15,
            min_child_samples=50,
            subsample=0.8,
            subsample_freq=1,
            colsample_bytree=0.8,
            random_state=seed,
            n_jobs=1,  # so few rows gain nothing from a second thread, and on a busy machine it spins for minutes
            verbose=-1,
        )
        return model.fit(x, y)

    return _one_a_head(fit, train, features)


def _rule(name: str, train: Rows, features: Floats) -> Floats:
    column = train.names.index(name)
    edges = np.quantile(train.column(name), np.linspace(0, 1, _BUCKETS + 1)[1:-1])
    return _by_bucket(
        np.searchsorted(edges, train.features[:, column]), train.labels, np.searchsorted(edges, features[:, column])
    )


def _by_bucket(train_bucket: NDArray[np.int_], labels: Labels, bucket: NDArray[np.int_]) -> Floats:
    probs = np.empty((len(bucket), heads.width(labels.shape[1])), np.float32)
    for k in range(labels.shape[1]):
        for head, classes in enumerate(heads.CLASSES):
            whole = class_frequencies(labels[:, k, head], classes)
            table = np.tile(whole, (int(max(train_bucket.max(), bucket.max())) + 1, 1))
            for b in np.unique(train_bucket):
                here = labels[train_bucket == b, k, head]
                if (here >= 0).any():
                    table[b] = class_frequencies(here, classes)
            heads.put_class_probs(probs, k, head, table[bucket])
    return probs


def _one_a_head(fit: Callable[[Floats, Labels], Any], train: Rows, features: Floats) -> Floats:
    probs = np.empty((len(features), heads.width(train.labels.shape[1])), np.float32)
    for k in range(train.labels.shape[1]):
        for head, classes in enumerate(heads.CLASSES):
            known = train.labels[:, k, head] >= 0
            truth = train.labels[known, k, head]
            answer = np.zeros((len(features), classes))
            if len(np.unique(truth)) < 2:  # only one class: nothing to learn
                answer[:] = class_frequencies(truth, classes)
            else:
                with warnings.catch_warnings():
                    # sklearn's convergence and LightGBM's feature-name notes: the scores on the test rows say it all
                    warnings.simplefilter("ignore")
                    model = fit(train.features[known], truth)
                    answer[:, model.classes_.astype(int)] = model.predict_proba(features)
            heads.put_class_probs(probs, k, head, answer)
    return probs
