"""A YAML file that knows its lines."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.config.source import DEPTH_MAX, VALUES_MAX, dotted, nearest, parse
from steelyard.core.errors import SpecError


def test_an_error_names_the_line_of_its_key() -> None:
    source = parse("a:\n  b: 1\n  c:\n    - x\n    - y\n", "f.yaml")
    assert str(source.error(("a", "b"), "wrong")) == "f.yaml:2: a.b: wrong"
    assert str(source.error(("a", "c", 1), "wrong")) == "f.yaml:5: a.c[1]: wrong"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e6", 1e6),
        ("1E-3", 1e-3),
        ("-2.5e+3", -2500.0),
        (".5e1", 5.0),
        ("12", 12),
        ("'1e6'", "1e6"),
        ("1e6s", "1e6s"),
        ("e6", "e6"),
        ("1e", "1e"),
    ],
)
def test_exponents_are_numbers_as_in_json(text: str, value: object) -> None:
    assert parse(f"a: {text}\n", "f.yaml").data == {"a": value}


def test_an_error_about_what_is_missing_names_the_nearest_line_above() -> None:
    source = parse("a:\n  b: 1\n", "f.yaml")
    assert str(source.error(("a", "zz", "q"), "missing")) == "f.yaml:1: a.zz.q: missing"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("a: 1\na: 2\n", "f.yaml:2: a: given twice"),
        ("a:\n  b: 1\n  b: 1\n", "f.yaml:3: a.b: given twice"),
        ("1: x\n", "f.yaml:1: top level: want text as key, got 1; quote it"),
        ("a:\n  yes: x\n", "f.yaml:2: a: want text as key, got yes; quote it"),
        ("? [a]\n: x\n", "f.yaml:1: top level: want text as key, got a list or mapping; quote it"),
        ("a: [1\n", "f.yaml:2: not valid YAML: expected ',' or ']', but got '<stream end>'"),
        (
            "a: !!python/name:os.system\n",
            "f.yaml:1: not valid YAML: could not determine a constructor for the tag",
        ),
        ("a: 1\n---\nb: 2\n", "f.yaml:2: not valid YAML: but found another document"),
        ("a: *b\n", "f.yaml:1: not valid YAML: found undefined alias 'b'"),
        ("a: 2026-99-99\n", "f.yaml: not valid YAML: month must be in 1..12"),
        ("a: \x00\n", "f.yaml: not valid YAML: unacceptable character #x0000"),
    ],
)
def test_broken_files_are_one_line(text: str, error: str) -> None:
    with pytest.raises(SpecError) as raised:
        parse(text, "f.yaml")
    assert str(raised.value).startswith(error)
    assert "\n" not in str(raised.value)


def test_an_alias_within_itself_ends() -> None:
    with pytest.raises(SpecError, match=f"nested more than {DEPTH_MAX} levels deep"):
        parse("a: &a\n  b: *a\n", "f.yaml")


def test_aliases_that_multiply_end() -> None:
    # Nine levels of ten aliases each would be 10^9 values.
    lines = ["l0: &l0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 9)]
    with pytest.raises(SpecError, match=f"more than {VALUES_MAX} values"):
        parse("\n".join(lines), "f.yaml")


def test_merge_keys_are_kept_apart_from_text_keys() -> None:
    source = parse("base: &b {x: 1}\nuse: {<<: *b, y: 2}\n", "f.yaml")
    assert source.data["use"] == {"x": 1, "y": 2}


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused_in_one_line(text: str) -> None:
    try:
        parse(text, "f.yaml")
    except SpecError as error:
        message = str(error)
    else:
        message = ""
    assert "\n" not in message


def test_deep_nesting_ends_before_the_stack_does() -> None:
    with pytest.raises(SpecError, match=f"nested more than {DEPTH_MAX} levels deep"):
        parse("[" * 10_000, "f.yaml")


def test_paths_read_as_people_write_them() -> None:
    assert (
        dotted(("services", "ocr", "items", "crop.lines", "mean")) == 'services.ocr.items["crop.lines"].mean'
    )
    assert dotted(("cluster", "nodes", 0, "name")) == "cluster.nodes[0].name"


def test_the_nearest_word_is_named_and_few_others() -> None:
    assert nearest("latncy", ("latency", "quantile")) == "; did you mean latency? (known: latency, quantile)"
    assert nearest("zzz", ("latency", "quantile")) == " (known: latency, quantile)"
    many = tuple(f"word{n}" for n in range(20))
    assert nearest("word1x", many) == "; did you mean word1?"
    assert nearest("anything", ()) == ""
