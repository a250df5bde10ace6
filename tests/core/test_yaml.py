import math
import os
import time

import pytest
import yaml as pyyaml
from hypothesis import given
from hypothesis import strategies as st

from lamina.core.errors import RecipeError
from lamina.core.yaml import MAX_BYTES, MAX_DEPTH, MAX_NODES, dump_yaml, load_yaml

SCALARS = {
    # what merge users write, and what PyYAML by itself reads otherwise
    "1e-5": 1e-5,
    "1E+3": 1000.0,
    "1.5e3": 1500.0,
    ".5": 0.5,
    "5.": 5.0,
    "-0.0": -0.0,
    "+.5e-1": 0.05,
    "0.1": 0.1,
    "1_000": "1_000",
    "0x1F": 31,
    "0o17": 15,
    "012": 12,
    "0b11": "0b11",
    "-7": -7,
    "+7": 7,
    "1:30": "1:30",
    "2026-01-02": "2026-01-02",
    "no": "no",
    "yes": "yes",
    "on": "on",
    "Off": "Off",
    "y": "y",
    "true": True,
    "False": False,
    "TRUE": True,
    "tRUE": "tRUE",
    "null": None,
    "~": None,
    "": None,
    "nil": "nil",
    "-.inf": -math.inf,
    ".Inf": math.inf,
    "+.INF": math.inf,
    "inf": "inf",
    "nan": "nan",
    ".": ".",
    "e5": "e5",
    "1e": "1e",
    "1.2.3": "1.2.3",
    "-": [None],
    "--": "--",
    "=": "=",
    "'1e-5'": "1e-5",
    '"no"': "no",
    "!!str 5": "5",
    "!!float 1": 1.0,
    "!!int 0x10": 16,
    "! 5": "5",
    "\u0663": "\u0663",  # an Arabic-Indic 3 is no number here
}


@pytest.mark.parametrize(("text", "value"), SCALARS.items(), ids=repr)
def test_scalars_are_yaml_1_2(text, value):
    read = load_yaml(f"key: {text}\n" if text != "-" else f"key:\n  {text}\n")["key"]
    assert read == value
    assert type(read) is type(value)


def test_nan_is_a_float():
    assert math.isnan(load_yaml(".nan"))


def test_keys_are_texts_as_they_are_written():
    read = load_yaml("{no: 1, 0: 2, 1e-5: 3, ~: 4, true: 5, '': 6}")
    assert read == {"no": 1, "0": 2, "1e-5": 3, "~": 4, "true": 5, "": 6}


def test_a_recipe_of_the_usual_kind():
    text = """\
# a comment
merge_method: lata
models:
  - {model: ./math, parameters: {weight: 0.5}}
  - model: ./no
    parameters:
      weight: [0, 1e-5]
note: |
  two
  \tlines
folded: >-
  one
  line
"""
    assert load_yaml(text) == {
        "merge_method": "lata",
        "models": [
            {"model": "./math", "parameters": {"weight": 0.5}},
            {"model": "./no", "parameters": {"weight": [0, 1e-5]}},
        ],
        "note": "two\n\tlines\n",
        "folded": "one line",
    }


@pytest.mark.parametrize("text", ["", "\n\n", "# only this\n", "---\n", "---\n...\n", "\ufeff"])
def test_an_empty_file_is_none(text):
    assert load_yaml(text.encode()) is None


@pytest.mark.parametrize(
    ("text", "value"),
    [("- 1\n- 2", [1, 2]), ("5", 5), ("--- text\n...\n", "text"),
     ("%YAML 1.2\n---\na: 1", {"a": 1}),
     ("\ufeffa: 1", {"a": 1}), ("a: 1\r\nb: 2\r\n", {"a": 1, "b": 2}), ('{"a":1}', {"a": 1})],
    ids=repr,
)  # fmt: skip
def test_other_shapes(text, value):
    assert load_yaml(text.encode()) == value


REFUSED = {
    "key twice": (
        "a: 1\nb: 2\na: 3\n",
        r"line 3, column 1: the key `a` stands twice, first in line 1",
    ),
    "key twice, deep": ("x:\n  - {b: 1, c: 2,\n     b: 3}\n", r"line 3, .*`b` .* first in line 2"),
    "key twice, quoted": ("1: a\n'1': b\n", "`1` stands twice"),
    "merge twice": ("a: &a {}\nb:\n  <<: *a\n  <<: *a\n", "`<<` stands twice"),
    "two documents": ("a: 1\n---\nb: 2\n", "line 2, column 1: a second document"),
    "object": (
        "a: !!python/object/apply:os.system [ls]\n",
        r"the tag `!!python/object/apply:os\.system`",
    ),
    "object name": ("!!python/name:os.system ''\n", r"the tag `!!python/name:os\.system`"),
    "own tag": ("a: !thing {}\n", "the tag `!thing`"),
    "set": ("a: !!set {x}\n", "the tag `!!set`"),
    "binary": ("a: !!binary aGk=\n", "the tag `!!binary`"),
    "long tag": ("%TAG !e! tag:e.org,2000:\n---\na: !e!x 1\n", "`tag:e.org,2000:x`"),
    "tag on a key": ("!!python/name:x y: 1\n", "the tag"),
    "wrong kind": ("a: !!seq {}\n", "the tag `!!seq`"),
    "wrong value": ("a: !!int x\n", "`x` is not what `!!int` says"),
    "list as a key": ("? [a, b]\n: 1\n", "a key must be a plain text"),
    "map as a key": ("{{a: 1}: 2}\n", "a key must be a plain text"),
    "alias as a key": ("a: &x y\n*x : 2\n", "a key must be a plain text"),
    "no key": ("?\n: 1\n", "a key is missing before the colon"),
    "anchor twice": ("a: &x 1\nb: &x 2\n", "`&x` stands twice"),
    "no anchor": ("a: *.txt\n", "begins with [*] in quotes\n    a: "),
    "unknown anchor": ("a: *txt\n", r"alias `\*txt` has no anchor"),
    "alias in itself": ("a: &x [1, *x]\n", "`[*]x` stands inside `&x`"),
    "map in itself": ("a: &x\n  <<: *x\n", "`[*]x` stands inside `&x`"),
    "merge of a text": ("a:\n  <<: text\n", "`<<` takes a map"),
    "tab": ("a:\n\tb: 1\n", "line 2, column 1: a tab in the indentation"),
    "tab, later": ("a:\n  b: 1\n\tc: 2\n", "line 3, .*a tab in the indentation"),
    "tab after spaces": ("a:\n  b: 1\n \tc: 2\n", "line 3, .*a tab in the indentation"),
    "tab between": ("a:\tb\n", "line 1, column 3: a tab between two words"),
    "unclosed": ("a: [1, 2\nb: 3\n", "line 2"),
    "unclosed text": ('a: "x\n', "cannot be read as YAML: while scanning a quoted scalar"),
    "two colons": ("a: b: c\n", "line 1, column 5: cannot be read as YAML: mapping values"),
    "at sign": ("a: @b\n", "line 1, column 4.*put the text in quotes"),
    "NUL": ("a: b\n c: \0\n", "line 2, column 5: a NUL"),
    "NUL, escaped": ('a: "x\\0"\n', "a text with a NUL"),
    "control": ("a: \x07\n", r"line 1, column 4: the control character U\+0007"),
    "surrogate": ('a: "\\ud800"\n', "half a surrogate"),
    "beyond Unicode": ('a: "\\UFFFFFFFF"\n', "cannot be read as YAML"),
    "long int": ("a: " + "9" * 5000 + "\n", "a number of 5,000 characters"),
    "long hex": ("a: 0x" + "f" * 5000 + "\n", "a number of 5,002 characters"),
    "huge float": ("a: 1e999\n", r"`1e999` is too large; write \.inf"),
    "version": ("%YAML 2.0\n---\na: 1\n", "line 1"),
}


@pytest.mark.parametrize(("text", "told"), REFUSED.values(), ids=REFUSED)
def test_refused_with_the_place(text, told):
    with pytest.raises(RecipeError, match=told) as caught:
        load_yaml(text, name="r.yaml")
    assert str(caught.value).startswith("r.yaml")
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ("a: 1".encode("utf-16"), "is UTF-16; save it as UTF-8"),
        ("a: 1".encode("utf-16-be"), "a NUL"),
        ("a: 1\nb: café\n".encode("latin-1"), "line 2: not UTF-8, the byte at offset 11 is 0xe9"),
        (b"a: \xed\xa0\x80", "not UTF-8"),
        (b"\x80\x04\x95", "offset 0 is 0x80"),
    ],
)
def test_bytes_that_are_not_utf8_are_told(tmp_path, data, told):
    path = tmp_path / "r.yaml"
    path.write_bytes(data)
    with pytest.raises(RecipeError, match=told):
        load_yaml(path)
    with pytest.raises(RecipeError, match=told):
        load_yaml(data)


def test_what_is_not_a_file_is_told(tmp_path):
    with pytest.raises(RecipeError, match=r"r\.yaml does not exist"):
        load_yaml(tmp_path / "r.yaml")
    with pytest.raises(RecipeError, match="is not a file"):
        load_yaml(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(RecipeError, match="is not a file"):
        load_yaml(tmp_path / "pipe")
    with pytest.raises(RecipeError):
        load_yaml(tmp_path / "x\0y")
    with pytest.raises(RecipeError):
        load_yaml(tmp_path / ("x" * 5000))


def test_a_file_over_the_cap_is_refused_unread(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(RecipeError, match="more than 1,000,000 bytes"):
        load_yaml(path)


def laughs(levels: int, width: int = 9) -> str:
    lines = ["a0: &a0 ha"] + [
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, levels)
    ]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (laughs(12), "expands to more than"),
        (laughs(2000, 1), "nest deeper"),
        (f"a: &a {'x' * 400_000}\nb: [{', '.join(['*a'] * 100_000)}]", "expands to more"),
        ("a: &a {" + ", ".join(f"k{n}: 1" for n in range(12_000)) + "}\nb: [*a, *a]", "expands to"),
        ("[" * 10_000, "nested deeper than 64"),
        ("[" * 10_000 + "]" * 10_000, "nested deeper than 64"),
        ("{a: " * 10_000, "nested deeper than 64"),
        ("- " * 10_000 + "1", "nested deeper than 64"),
        ("? " * 10_000 + "1", "a key must be"),
        ("\n".join(" " * n + "a:" for n in range(1000)), "nested deeper than 64"),
        ("[" + "1," * 30_000 + "]", f"more than {MAX_NODES:,}"),
    ],
    ids=["laughs", "deep laughs", "quadratic", "quadratic map", "open lists", "lists", "maps",
         "dashes", "questions", "indents", "wide"],
)  # fmt: skip
def test_bombs_end_in_one_error_soon(text, told):
    start = time.process_time()
    with pytest.raises(RecipeError, match=told):
        load_yaml(text)
    assert time.process_time() - start < 30


def test_nesting_up_to_the_cap_works():
    deep = load_yaml("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    for _ in range(MAX_DEPTH - 1):
        (deep,) = deep
    assert deep == []
    with pytest.raises(RecipeError, match="nested deeper"):
        load_yaml("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1))


def test_anchors_and_merge_keys_work():
    text = """\
weights: &w [0.5, 1]
one: &one {weight: *w, density: 1}
two: &two {density: 2, seed: 3}
both:
  seed: 4
  <<: [*one, *two]
text: {"<<": 1}
"""
    read = load_yaml(text)
    assert read["both"] == {"seed": 4, "weight": [0.5, 1], "density": 1}
    assert read["text"] == {"<<": 1}


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30)
TRICKY = st.sampled_from(
    [*SCALARS, "<<", "- a", "a: b", "#", "&a", "*a", "!!int 5", "%", "@", "---", " a", "a ",
     "a\n", "\n", "a\n\n b", "\x85", "\u2028", "\ufeff", "😀"]
)  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS | TRICKY,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS | TRICKY, inner, max_size=4),
    max_leaves=20,
)


@given(JSON)
def test_dump_then_load_is_the_identity(value):
    text = dump_yaml(value)
    read = load_yaml(text)
    assert read == value
    assert repr(read) == repr(value), "the same types and the same signs of zero"


@given(JSON)
def test_a_dumped_text_is_a_text_for_yaml_1_1_readers_too(value):
    def texts(part):
        match part:
            case dict():
                return [t for pair in part.items() for inner in pair for t in texts(inner)]
            case list():
                return [t for inner in part for t in texts(inner)]
            case str():
                return [part]
            case _:
                return []

    assert texts(pyyaml.safe_load(dump_yaml(value))) == texts(value)


def test_dumps_are_plain_to_read():
    recipe = {"merge_method": "ties", "models": [{"model": "./a", "parameters": {"weight": 1e-05}}],
              "same": (1, 2), "name": "no", "empty": {}}  # fmt: skip
    assert dump_yaml(recipe) == (
        "merge_method: ties\nmodels:\n- model: ./a\n  parameters:\n    weight: 1.0e-05\n"
        "same:\n- 1\n- 2\nname: 'no'\nempty: {}\n"
    )
    shared = [1]
    assert "&" not in dump_yaml({"a": shared, "b": shared})


@given(st.text(max_size=60) | st.text("[]{}:,-?&*!|>'\"%@#<~ \n\ta1.e", max_size=60))
def test_any_text_is_read_or_refused(text):
    try:
        value = load_yaml(text)
    except RecipeError:
        return
    assert repr(load_yaml(dump_yaml(value))) == repr(value)


@given(st.binary(max_size=40))
def test_any_bytes_are_read_or_refused(data):
    try:
        load_yaml(data)
    except RecipeError:
        return
