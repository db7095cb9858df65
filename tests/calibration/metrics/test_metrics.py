from __future__ import annotations

import numpy as np
import pytest

from fuselage.calibration.metrics.accuracy import ACCURACY
from fuselage.calibration.metrics.answer_text import (
    ANSWER_F1,
    EXACT_MATCH,
    exact_match,
    normalized,
    word_f1,
)
from fuselage.calibration.metrics.entity_f1 import ENTITY_F1
from fuselage.calibration.metrics.macro_f1 import MACRO_F1, macro_f1
from fuselage.calibration.metrics.mrr import MRR, reciprocal_rank
from fuselage.calibration.metrics.pseudo_perplexity import PSEUDO_PERPLEXITY
from fuselage.calibration.metrics.spearman import SPEARMAN, ranks, spearman


def judged(metric, answers, expected):
    return metric.value(metric.rows(answers, expected))


def test_ranks_of_equal_values_are_their_mean():
    np.testing.assert_array_equal(ranks(np.array([3.0, 1.0, 3.0, 2.0, 3.0])), [4, 1, 4, 2, 4])
    np.testing.assert_array_equal(ranks(np.array([5.0, 5.0])), [1.5, 1.5])


def test_spearman_is_what_the_textbook_says():
    # 1 - 6 sum d^2 / n(n^2 - 1) with d = (IQ, television) of ten people: -29/165
    hours = np.array([7, 27, 0, 50, 28, 29, 20, 12, 6, 17.0])
    quotient = np.array([106, 100, 86, 101, 99, 103, 97, 113, 112, 110.0])
    assert spearman(quotient, hours) == pytest.approx(-29 / 165)


def test_spearman_with_ties_is_pearson_of_the_ranks():
    first, second = np.array([1.0, 2, 2, 3, 4]), np.array([1.0, 1, 3, 2, 2])
    expected = np.corrcoef([1, 2.5, 2.5, 4, 5], [1.5, 1.5, 5, 3.5, 3.5])[0, 1]
    assert spearman(first, second) == pytest.approx(expected)
    assert expected == pytest.approx(
        0.459627, abs=1e-6
    )  # the formula for ranks without ties says 0.5


def test_spearman_sees_order_alone():
    values = np.random.default_rng(0).normal(size=50)
    assert spearman(values, np.exp(3 * values)) == 1.0
    assert spearman(values, -(values**3)) == -1.0
    assert judged(SPEARMAN, [0.1, 0.2, 0.15], [1.0, 5.0, 3.0]) == 1.0


def test_spearman_without_an_order_is_zero():
    assert spearman(np.ones(5), np.arange(5.0)) == 0.0
    assert spearman(np.arange(5.0), np.zeros(5)) == 0.0


def test_accuracy_counts_right_labels():
    assert judged(ACCURACY, [0, 1, 2, 2], [0, 1, 1, 2]) == 0.75


def test_macro_f1_weighs_labels_the_same():
    # label 0: tp 3, fp 1, fn 0 -> 6/7; label 1: tp 0 -> 0; label 2: tp 1, fp 0, fn 0 -> 1
    answers, expected = [0, 0, 0, 0, 2], [0, 0, 0, 1, 2]
    assert judged(MACRO_F1, answers, expected) == pytest.approx((6 / 7 + 0 + 1) / 3)
    # a label that neither occurs nor is answered does not count
    assert macro_f1(np.array([0, 3]), np.array([0, 3])) == 1.0


def test_answers_are_normalised_as_squad_does():
    assert normalized("The  Eiffel-Tower, (in) Paris!") == "eiffeltower in paris"
    assert normalized("An apple a day") == "apple day"
    assert normalized("theatre") == "theatre"


def test_words_of_answers_are_counted_as_often_as_they_occur():
    assert word_f1("Denver Broncos", "the Denver Broncos") == 1.0
    # 1 shared word of 3 and of 2
    assert word_f1("in New York", "York City") == pytest.approx(2 * 1 / 5)
    assert word_f1("no no no", "no") == pytest.approx(2 * 1 / 4)
    assert word_f1("Paris", "London") == 0.0
    assert exact_match("The Denver Broncos.", "denver broncos") == 1.0
    assert exact_match("Denver", "denver broncos") == 0.0


def test_no_answer_is_right_or_wrong_as_a_whole():
    assert word_f1("", "") == 1.0
    assert word_f1("Paris", "") == 0.0
    assert word_f1("", "Paris") == 0.0


def test_the_best_of_several_accepted_answers_counts():
    expected = [("1066", "in 1066"), ("William",)]
    assert judged(EXACT_MATCH, ["In 1066", "King William"], expected) == 0.5
    assert judged(ANSWER_F1, ["In 1066", "King William"], expected) == pytest.approx(
        (1 + 2 / 3) / 2
    )


def test_entities_count_when_label_and_ends_are_right():
    expected = [{("PER", 0, 5), ("LOC", 9, 15)}, set(), {("ORG", 0, 4)}]
    answers = [{("PER", 0, 5), ("LOC", 9, 14)}, {("PER", 0, 2)}, {("ORG", 0, 4)}]
    # tp 2, fp 2, fn 1
    assert judged(ENTITY_F1, answers, expected) == pytest.approx(4 / 7)
    assert judged(ENTITY_F1, [set()], [set()]) == 1.0


def test_reciprocal_rank_of_the_best_relevant_passage():
    assert reciprocal_rank(np.array([0.9, 0.1, 0.5]), 1) == 1.0
    # the better of two relevant ones stands behind one of three others
    assert reciprocal_rank(np.array([0.1, 0.6, 0.5, 0.7, 0.2]), 2) == 0.5
    # who tells nothing apart is last
    assert reciprocal_rank(np.zeros(5), 1) == 0.2
    assert judged(MRR, [np.array([2.0, 1.0]), np.array([0.0, 1.0, 2.0])], [1, 1]) == (1 + 1 / 3) / 2


def test_pseudo_perplexity_weighs_tokens_alike():
    # one token of probability 1/2, three of 1/8: the geometric mean over four tokens
    answers = [np.log([0.5]), np.log([0.125] * 3), np.zeros(0)]
    assert judged(PSEUDO_PERPLEXITY, answers, [None] * 3) == pytest.approx(2 ** ((1 + 3 * 3) / 4))
    assert judged(PSEUDO_PERPLEXITY, [np.array([-1e6])], [None]) < float("inf")


def test_a_rise_of_perplexity_is_a_loss():
    assert PSEUDO_PERPLEXITY.lost(8.0, 8.5) == 0.5
    assert MRR.lost(0.8, 0.75) == pytest.approx(0.05)
