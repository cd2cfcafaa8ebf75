"""What an answer's accuracy is said to be, and the turns by which shares are kept."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.core.accuracy import Accuracies
from steelyard.core.assignment import Turns
from steelyard.core.types import PathAccuracy, Service, Stage, Variant


def service(*paths: PathAccuracy, glue: float | None = None, small: float | None = 0.6) -> Service:
    find = Stage("find", (Variant("big", 0.9), Variant("small", small)))
    crop = Stage("crop", (Variant("crop", glue),), ("find",))
    read = Stage("read", (Variant("base", 0.8),), ("crop",))
    return Service("ocr", 0.1, (find, crop, read), path_accuracies=paths)


def test_it_is_the_product_of_the_stages() -> None:
    accuracy, is_measured = Accuracies(service(glue=0.5)).of({"find": "big", "crop": "crop", "read": "base"})
    assert accuracy == pytest.approx(0.9 * 0.5 * 0.8)
    assert not is_measured


def test_glue_that_nobody_has_rated_counts_as_1() -> None:
    chosen = {"find": "small", "crop": "crop", "read": "base"}
    assert Accuracies(service()).of(chosen)[0] == pytest.approx(0.48)


def test_one_of_several_variants_without_an_accuracy_leaves_it_unknown() -> None:
    accuracies = Accuracies(service(small=None))
    assert accuracies.of({"find": "small", "crop": "crop", "read": "base"}) == (None, False)
    assert accuracies.of({"find": "big", "crop": "crop", "read": "base"})[0] == pytest.approx(0.72)


def test_where_nobody_has_said_anything_nothing_is_known() -> None:
    accuracies = Accuracies(Service("ocr", 0.1, (Stage("a", (Variant("only"),)),)))
    assert not accuracies.is_known
    assert accuracies.of({"a": "only"}) == (None, False)


def test_the_measured_path_that_names_most_stages_counts() -> None:
    paths = (PathAccuracy({"find": "big"}, 0.5), PathAccuracy({"find": "big", "read": "base"}, 0.7))
    accuracies = Accuracies(service(*paths))
    assert accuracies.of({"find": "big", "crop": "crop", "read": "base"}) == (0.7, True)
    assert accuracies.of({"find": "big", "crop": "crop"}) == (0.5, True)  # nothing was read
    assert accuracies.of({"find": "small", "crop": "crop", "read": "base"})[1] is False


def test_rows_of_several_variants_count_by_their_number() -> None:
    accuracies = Accuracies(service())
    chosen = {"find": "big", "crop": "crop", "read": "base"}
    # 3 of 4 rows at 0.9 * 0.8 = 0.72, one at 0.6 * 0.8 = 0.48.
    accuracy, is_measured = accuracies.mean(chosen, {"find": {"big": 3, "small": 1}})
    assert accuracy == pytest.approx(0.66)
    assert not is_measured
    assert Accuracies(service(small=None)).mean(chosen, {"find": {"big": 3, "small": 1}}) == (None, False)


def test_a_mean_is_measured_if_all_of_its_paths_are() -> None:
    big, small = PathAccuracy({"find": "big"}, 0.7), PathAccuracy({"find": "small"}, 0.3)
    chosen, rows_by = {"find": "big", "crop": "crop", "read": "base"}, {"find": {"big": 1, "small": 3}}
    accuracy, is_measured = Accuracies(service(big, small)).mean(chosen, rows_by)
    assert accuracy == pytest.approx(0.4)  # (0.7 + 3 * 0.3) / 4
    assert is_measured
    accuracy, is_measured = Accuracies(service(big)).mean(chosen, rows_by)
    assert accuracy == pytest.approx(0.535)  # (0.7 + 3 * 0.48) / 4
    assert not is_measured


def test_two_stages_of_several_variants_are_independent_of_each_other() -> None:
    stages = tuple(Stage(name, (Variant("big", 0.9), Variant("small", 0.5))) for name in "ab")
    rows_by = {"a": {"big": 1, "small": 1}, "b": {"big": 3, "small": 1}}
    # 0.7 * 0.8, over (0.81 * 3 + 0.45 * 1 + 0.45 * 3 + 0.25 * 1) / 8.
    accuracy, _ = Accuracies(Service("svc", 0.1, stages)).mean({"a": "big", "b": "big"}, rows_by)
    assert accuracy == pytest.approx(0.56)


def test_more_combinations_than_are_worth_it_count_by_most_rows() -> None:
    # Nine stages with two variants each are 512 combinations: the ninth counts as answered by `big` alone.
    names = "abcdefghi"
    stages = tuple(Stage(name, (Variant("big", 1.0), Variant("small", 0.5))) for name in names)
    rows_by = {name: {"big": 3, "small": 1} for name in names}
    accuracy, _ = Accuracies(Service("svc", 0.1, stages)).mean(dict.fromkeys(names, "big"), rows_by)
    assert accuracy == pytest.approx(0.875**8)


@given(
    st.dictionaries(st.sampled_from("abcde"), st.floats(0.05, 1.0), min_size=1),
    st.lists(st.integers(1, 9), min_size=1, max_size=80),
)
def test_nobody_is_ahead_of_its_share_by_more_than_one_turn(
    weights: dict[str, float], rows: list[int]
) -> None:
    turns: Turns[str] = Turns()
    given_rows = dict.fromkeys(weights, 0)
    for amount in rows:
        given_rows[turns.take(weights, float(amount))] += amount
    total = sum(weights.values())
    for key, weight in weights.items():
        assert given_rows[key] - sum(rows) * weight / total <= max(rows) + 1e-6
