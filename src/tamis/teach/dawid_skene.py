"""How often each teacher takes one category for another, estimated from their answers and what truth is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

UNKNOWN = -1
"""No answer, or no known truth."""
SMOOTHING = 1.0
"""Answers a member is taken to have given to each true category, spread over all answers.

A mistake that a few labels do not show is rare, not impossible.
"""
ITERATIONS = 200
STILL = 1e-6


@dataclass(frozen=True)
class ErrorRates:
    """`prior` (categories) of the truth, and `errors` (members, true category, answer); rows of both sum to 1."""

    prior: Floats
    errors: Floats


def fit_rates(
    said: Ints, start: Floats, truth: Ints, smoothing: float = SMOOTHING, iterations: int = ITERATIONS
) -> ErrorRates:
    """Expectation maximisation of Dawid and Skene (1979), with the truth held where it is known.

    Args:
        said: (rows, members), the category of each answer, or `UNKNOWN`.
        start: (rows, categories), a first guess at the truth.
        truth: (rows,), the human label, or `UNKNOWN`.
        smoothing: pseudo-answers a member and true category, a symmetric Dirichlet prior on the error rates.
        iterations: at most; it stops when no guess moves by more than `STILL`.
    """
    categories = start.shape[1]
    answers = _one_hot(said.T, categories)
    held, known = _one_hot(truth, categories), (truth != UNKNOWN)[:, None]
    guess = np.where(known, held, start)
    for _ in range(iterations):
        rates = _rates(answers, guess, smoothing)
        before, guess = guess, np.where(known, held, posterior(said, rates))
        if np.abs(guess - before).max(initial=0.0) < STILL:
            break
    return _rates(answers, guess, smoothing)


def posterior(said: Ints, rates: ErrorRates) -> Floats:
    """Probability of each true category given the answers alone, (rows, categories); Bayes with independent errors.

    Args:
        said: (rows, members), the category of each answer, or `UNKNOWN`.
        rates: the members' error rates.
    """
    # An answer that is missing is as likely under every truth.
    padded = np.concatenate([rates.errors, np.ones_like(rates.errors[:, :, :1])], axis=2)
    tiny = np.finfo(float).tiny
    logs = np.log(rates.prior + tiny) + sum(np.log(padded[m][:, said[:, m]].T + tiny) for m in range(said.shape[1]))
    likely = np.exp(logs - logs.max(axis=1, keepdims=True))
    return likely / likely.sum(axis=1, keepdims=True)


def _rates(answers: Floats, guess: Floats, smoothing: float) -> ErrorRates:
    """Maximisation: shares of the guessed truth, and of each member's answers to it."""
    categories = guess.shape[1]
    counts = guess.T @ answers + smoothing / categories
    prior = guess.sum(axis=0) + smoothing / categories
    return ErrorRates(prior / prior.sum(), counts / np.maximum(counts.sum(axis=2, keepdims=True), np.finfo(float).tiny))


def _one_hot(which: Ints, categories: int) -> Floats:
    """One-hot over a new last axis; `UNKNOWN` is all zeros."""
    return np.eye(categories + 1)[which][..., :categories]
