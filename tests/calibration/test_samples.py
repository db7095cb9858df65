from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fuselage.calibration.text.data import CalibrationSet
from fuselage.calibration.text.samples import (
    Draw,
    TokenIds,
    cleaned,
    digest_of,
    draw_key,
    sample_size,
)

WORDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)
SAMPLES = st.one_of(
    WORDS.map(str.strip),
    st.tuples(WORDS.map(str.strip), WORDS.map(str.strip)),
    st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=5).map(lambda n: TokenIds(tuple(n))),
)


@given(st.lists(SAMPLES, min_size=1), st.integers(1, 8), st.integers(0, 3), st.randoms())
def test_a_set_depends_on_its_texts_alone(samples, limit, seed, random):
    data = CalibrationSet.from_texts(samples, limit=limit, seed=seed)
    again = [*samples, *random.sample(samples, len(samples) // 2)]
    random.shuffle(again)
    other = CalibrationSet.from_texts(again, limit=limit, seed=seed)
    assert other.texts == data.texts
    assert other.digest == data.digest
    assert other.seen == data.seen == len(set(samples))
    assert other.duplicates == len(again) - data.seen
    assert len(data.texts) == min(limit, data.seen) == len(set(data.texts))
    assert set(data.texts) <= set(samples)


@given(st.lists(SAMPLES, min_size=1), st.integers(1, 8), st.integers(1, 8))
def test_a_smaller_draw_is_the_beginning_of_a_larger_one(samples, limit, more):
    few = CalibrationSet.from_texts(samples, limit=limit).texts
    many = CalibrationSet.from_texts(samples, limit=limit + more).texts
    assert many[: len(few)] == few


@given(SAMPLES, SAMPLES, st.integers())
def test_different_samples_differ_in_key_and_digest(first, second, seed):
    is_same = first == second
    assert (draw_key(first, seed) == draw_key(second, seed)) is is_same
    assert (digest_of([first]) == digest_of([second])) is is_same
    assert digest_of([first, second]) == digest_of([second, first])


@given(SAMPLES)
def test_cleaning_twice_is_cleaning_once(sample):
    assert cleaned(sample, "here") == sample


def test_samples_that_look_alike_are_told_apart():
    alike = ["ab", ("a", "b"), ("ab", "ab"), ("aba", "b"), "1 2", TokenIds((1, 2)), TokenIds((12,))]
    assert len({draw_key(sample, 0) for sample in alike}) == len(alike)
    assert len({digest_of([sample]) for sample in alike}) == len(alike)
    assert list(map(sample_size, alike)) == [2, 2, 4, 4, 3, 2, 1]


def test_every_text_has_the_same_chance():
    texts = [f"text {number}" for number in range(20)]
    drawn = dict.fromkeys(texts, 0)
    for seed in range(400):
        for text in CalibrationSet.from_texts(texts, limit=5, seed=seed).texts:
            drawn[text] += 1
    assert sum(drawn.values()) == 2000
    # 100 expected each; the standard deviation is 8.7.
    assert min(drawn.values()) > 65
    assert max(drawn.values()) < 135


def test_distinct_entries_are_counted_exactly_and_then_estimated():
    draw: Draw[None] = Draw(1000)
    for number in [*range(2000), *range(1000)]:
        draw.add(draw_key(str(number), 0), None)
    assert draw.distinct == 2000
    for number in range(50_000):
        draw.add(draw_key(str(number), 0), None)
    assert abs(draw.distinct - 50_000) < 5_000  # 1/sqrt(1000) is 3 %
    assert len(draw.entries) == 1000
