"""The cluster bootstrap: closed forms of its variance, a slow twin, equal weights for equal clusters."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import pytest

from basisbench.results.bootstrap import DRAWS, LEAST_LEVELS, SEED, few_clusters, resample_weights

FOUR_ERRORS = 4 * np.sqrt(2 / DRAWS)
"""Four standard errors of a variance over so many draws, relative to it."""


def test_one_factor_has_the_variance_of_the_mean_over_clusters() -> None:
    """Of clusters of one size: the variance of cluster means over their number; examples alone would give far less."""
    generator = np.random.default_rng(3)
    noun = np.repeat(np.arange(25), 4)
    values = generator.normal(0, 1, 25)[noun] + generator.normal(0, 0.1, 100)
    means = values.reshape(25, 4).mean(axis=1)
    expected = means.var() / 25
    found = (resample_weights(100, {"noun": tuple(noun)})[1:] @ values).var()
    assert found == pytest.approx(expected, rel=FOUR_ERRORS)
    assert (resample_weights(100)[1:] @ values).var() == pytest.approx(values.var() / 100, rel=FOUR_ERRORS)
    assert expected > 3 * values.var() / 100


def test_crossed_factors_have_the_variance_of_the_pigeonhole_bootstrap() -> None:
    """Owen 2007: multiplicities of rows and columns are independent multinomials, whose second moments are known."""
    rows, columns = 12, 9
    generator = np.random.default_rng(4)
    table = (
        generator.normal(size=(rows, 1)) + generator.normal(size=(1, columns)) + generator.normal(size=(rows, columns))
    )
    moment_of_rows, moment_of_columns = (1 + np.eye(levels) - 1 / levels for levels in (rows, columns))
    second = sum(
        moment_of_rows[i, k] * moment_of_columns[j, m] * table[i, j] * table[k, m]
        for i, k in itertools.product(range(rows), repeat=2)
        for j, m in itertools.product(range(columns), repeat=2)
    )
    expected = second / (rows * columns) ** 2 - table.mean() ** 2
    name, noun = (index.ravel() for index in np.indices((rows, columns)))
    weights = resample_weights(rows * columns, {"name": tuple(name), "noun": tuple(noun)})
    assert (weights[1:] @ table.ravel()).var() == pytest.approx(expected, rel=FOUR_ERRORS)


def slow_weights(clusters: dict[str, list[int]], draw: int) -> list[float]:
    """Draw levels one by one, and give each example a share for every pair of levels that it has."""
    examples = len(next(iter(clusters.values())))
    drawn = {}
    for factor, levels in clusters.items():
        count = len(set(levels))
        seed = int.from_bytes(hashlib.sha256(f"{factor}:{count}".encode()).digest()[:8])
        drawn[factor] = np.random.default_rng([SEED, seed]).integers(0, count, size=(DRAWS, count))[draw].tolist()
    copies = []
    for example in range(examples):
        number = 1
        for factor, levels in clusters.items():
            number *= sum(level == levels[example] for level in drawn[factor])
        copies.append(number)
    return [number / sum(copies) for number in copies]


def test_weights_equal_a_loop_over_levels() -> None:
    clusters = {"noun": [0, 1, 2, 3, 0, 1, 2, 3, 4, 4], "template": [0, 0, 0, 0, 1, 1, 1, 1, 0, 1]}
    weights = resample_weights(10, {name: tuple(levels) for name, levels in clusters.items()})
    np.testing.assert_allclose(weights[0], 0.1)
    for draw in (0, 1, 17, 998):
        np.testing.assert_allclose(weights[draw + 1], slow_weights(clusters, draw))


def test_a_resample_without_examples_is_drawn_again() -> None:
    """Three examples that share no level: many resamples leave none of them, and every row has some weight."""
    diagonal = {"name": (0, 1, 2), "noun": (0, 1, 2)}
    weights = resample_weights(3, diagonal)
    assert np.isfinite(weights).all()
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    assert weights[1:].mean(axis=0) == pytest.approx([1 / 3] * 3, abs=0.05)


def test_draws_follow_from_names_and_levels_alone() -> None:
    clusters = {"noun": (0, 1, 2, 0), "name": (0, 0, 1, 1)}
    reversed_order = dict(reversed(clusters.items()))
    assert resample_weights(4, clusters) is resample_weights(4, reversed_order)
    renamed = {"noun": (5, 8, 9, 5), "name": (1, 1, 7, 7)}
    np.testing.assert_array_equal(resample_weights(4, clusters), resample_weights(4, renamed))
    other = resample_weights(4, {"noun": (0, 1, 2, 0), "cue": (0, 0, 1, 1)})
    assert not np.array_equal(resample_weights(4, clusters), other)


def test_a_factor_with_few_levels_is_told() -> None:
    enough, few, fewer = (
        tuple(index % levels for index in range(40)) for levels in (LEAST_LEVELS, LEAST_LEVELS - 1, 2)
    )
    assert few_clusters({}) == ""
    assert few_clusters({"noun": enough}) == ""
    assert few_clusters({"noun": enough, "name": few}) == "name"
    assert few_clusters({"noun": few, "template": fewer, "name": enough}) == "template"
