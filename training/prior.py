"""The prior: what a profile says about a customer's vector before any behaviour, by ridge regression.

Regress the users' fitted factors on indicators of their profile tokens (centred, so that the mean needs no
penalty). The served fold-in multiplies the prior's m by tau and then by A^-1 (`serving.vector_model`), where
A = Yt Y + (lambda + tau) I: items not touched count against every item, and popular directions most. For a
customer without history that would undo the very thing the prior knows. So what is stored is m' = A m / tau:
the vector without history is then exactly m, and the posterior is that of a Gaussian prior N(m, A^-1).
Measured on ML-1M by time, customers with no history included (HR@10): m as it is 0.46 to 0.58 depending on
tau, m' 0.577 to 0.595 at any tau tried.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from serving.models import Prior
from training.model import Customers

RIDGE = 30.0  # as many customers without effect as pull a token's weights to nothing
RAREST = 20  # customers that a token needs; fewer would be noise, and near to naming them
MOST_TOKENS = 4096


def fit_prior(factors: NDArray[np.float32], active: NDArray[np.bool_], customers: Customers) -> Prior:
    """Over the `active` users, those whose factors rest on behaviour. `factors` (n_users, d)."""
    width = factors.shape[1]
    known = factors[active].astype(np.float64)
    if not len(known):
        return Prior(np.zeros(width, np.float32), np.zeros(0, np.uint32), np.zeros((0, width), np.float32))
    mean = known.mean(axis=0)
    tokens, indicator = indicators(customers, active)
    if not len(tokens):
        return Prior(mean.astype(np.float32), tokens, np.zeros((0, width), np.float32))
    share = np.asarray(indicator.mean(axis=0)).ravel()
    # Normal equations of the centred indicators Z - 1 share, without ever making them dense.
    gram = (indicator.T @ indicator).toarray() - len(known) * np.outer(share, share)
    cross = indicator.T @ (known - mean)  # the centring drops out: the residuals sum to nothing
    weights = np.linalg.solve(gram + RIDGE * np.eye(len(tokens)), cross)
    intercept = mean - share @ weights
    return Prior(intercept.astype(np.float32), tokens, weights.astype(np.float32))


def precise(prior: Prior, gram: NDArray[np.float64], regularization: float, tau: float) -> Prior:
    """The prior as the fold-in needs it: m' = A m / tau with A = gram + (regularization + tau) I."""
    lift = (gram + (regularization + tau) * np.eye(len(gram))) / tau
    return Prior(
        (prior.mean @ lift).astype(np.float32), prior.tokens, (prior.weights @ lift).astype(np.float32)
    )


def indicators(
    customers: Customers, active: NDArray[np.bool_]
) -> tuple[NDArray[np.uint32], sparse.csr_array]:
    """Tokens (ascending) that enough active customers have, and who has which: (active users, tokens)."""
    owner = np.repeat(np.arange(len(customers)), np.diff(customers.indptr))
    held = active[owner]
    place = (np.cumsum(active) - 1)[owner[held]]
    tokens, column = np.unique(customers.tokens[held], return_inverse=True)
    counts = np.bincount(column, minlength=len(tokens))
    kept = np.flatnonzero(counts >= RAREST)
    if len(kept) > MOST_TOKENS:
        kept = np.sort(kept[np.argsort(-counts[kept], kind="stable")[:MOST_TOKENS]])
    new_column = np.full(len(tokens), -1, np.int64)
    new_column[kept] = np.arange(len(kept))
    used = new_column[column] >= 0
    shape = (int(active.sum()), len(kept))
    matrix = sparse.csr_array(
        (np.ones(int(used.sum())), (place[used], new_column[column][used])), shape=shape
    )
    matrix.data[:] = 1.0  # a token given twice is given
    return tokens[kept], matrix
