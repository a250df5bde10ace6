from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.core.errors import DataError
from lamina.data.formats import Record, Turn, to_records
from lamina.data.recipe import REQUIRED


def _read(*rows: Any, kind: Any = "auto", fields: dict[str, str] | None = None) -> Any:
    placed = [(f"a.jsonl:{number}", row) for number, row in enumerate(rows, start=1)]
    return to_records(placed, kind, fields=fields or {}, source="a.jsonl")


def _turns(row: Any, kind: Any = "auto", fields: dict[str, str] | None = None) -> Any:
    _, [record] = _read(row, kind=kind, fields=fields)
    assert record.text is None
    return [(turn.role, turn.content) for turn in record.turns]


def _refused(*rows: Any, kind: Any = "auto", fields: dict[str, str] | None = None) -> str:
    with pytest.raises(DataError) as refusal:
        _read(*rows, kind=kind, fields=fields)
    return str(refusal.value)


def test_text_is_running_text() -> None:
    assert _read({"text": "a b", "id": 3}) == ("text", [Record(None, "a b", "a.jsonl:1")])


def test_alpaca_puts_the_input_on_a_new_line() -> None:
    assert _turns({"instruction": "add", "input": "1 2", "output": "3"}) == [
        ("user", "add\n1 2"),
        ("assistant", "3"),
    ]
    for empty in ({}, {"input": ""}, {"input": None}):
        assert _turns({"instruction": "add", "output": "3", **empty})[0] == ("user", "add")


def test_alpaca_has_a_system_text_and_earlier_turns() -> None:
    row = {"instruction": "c", "output": "d", "system": "be kind", "history": [["a", "b"]]}
    assert _turns(row) == [
        ("system", "be kind"),
        ("user", "a"),
        ("assistant", "b"),
        ("user", "c"),
        ("assistant", "d"),
    ]


def test_sharegpt_roles_get_our_names() -> None:
    said = [("human", "user"), ("gpt", "assistant"), ("observation", "tool"), ("GPT", "assistant")]
    row = {"conversations": [{"from": role, "value": "x"} for role, _ in said], "system": "s"}
    assert _turns(row) == [("system", "s"), *((role, "x") for _, role in said)]


def test_conversations_may_have_role_and_content() -> None:
    row = {"conversations": [{"role": "user", "content": "a"}, {"from": "gpt", "value": "b"}]}
    assert _turns(row) == [("user", "a"), ("assistant", "b")]


def test_messages_keep_their_order() -> None:
    row = {"messages": [{"role": r, "content": r[0]} for r in ("system", "user", "assistant")]}
    assert _turns(row) == [("system", "s"), ("user", "u"), ("assistant", "a")]


def test_prompt_and_completion_are_a_user_and_an_assistant() -> None:
    assert _turns({"prompt": "q", "completion": "a"}) == [("user", "q"), ("assistant", "a")]
    message = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
    row = {"prompt": [message[0]], "completion": [message[1]]}
    assert _turns(row) == [("user", "q"), ("assistant", "a")]


def test_fields_rename_and_reach_deeper() -> None:
    row = {"inputs": {"text": "q"}, "answer": "a", "inputs.text": 1, "text": "not this"}
    fields = {"prompt": "inputs.text", "completion": "answer"}
    del row["inputs.text"]
    assert _turns(row, fields=fields) == [("user", "q"), ("assistant", "a")]
    assert _read({"a.b": "x"}, fields={"text": "a.b"})[1][0].text == "x"


def test_an_empty_completion_is_no_error_here() -> None:
    assert _turns({"prompt": "q", "completion": ""})[-1] == ("assistant", "")
    assert _turns({"messages": [{"role": "user", "content": "q"}]}) == [("user", "q")]


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"messages": [{"role": "user", "content": "a"}], "prompt": "a", "text": "a"}, "messages"),
        ({"instruction": "a", "output": "b", "text": "a b"}, "alpaca"),
        ({"prompt": "a", "completion": "b", "text": "a b"}, "prompt_completion"),
        ({"conversations": [{"from": "gpt", "value": "a"}], "text": "a"}, "sharegpt"),
        ({"text": "a", "messages": None}, "text"),
    ],
)
def test_auto_goes_by_the_fields(row: Any, kind: str) -> None:
    assert _read(row)[0] == kind


def test_no_type_that_fits_lists_what_was_seen() -> None:
    told = _refused({"question": "q", "answer": "a"})
    for word in ("a.jsonl:1", "question, answer", "prompt, completion", "`fields: {prompt:"):
        assert word in told, (word, told)
    assert "`fields: {prompt: q}`" in _refused({"question": "q"}, fields={"prompt": "q"})
    assert "is a list" in _refused([1])
    assert all(kind in told for kind in REQUIRED)


def test_a_missing_field_is_told_with_its_row() -> None:
    told = _refused({"prompt": "q", "completion": "a"}, {"prompt": "q"}, {"prompt": "q"})
    assert "2 rows of 3 are not of type `prompt_completion`" in told
    assert "a.jsonl:2: `completion` missing; fields seen: prompt" in told
    assert "a.jsonl:3: " in told
    told = _refused({"q": "q"}, kind="text", fields={"text": "body"})
    assert "a.jsonl:1: `body` (as text) missing; fields seen: q" in told


def test_rows_of_two_types_are_told_with_their_numbers() -> None:
    told = _refused({"text": "a"}, {"prompt": "q", "completion": "a"}, {"text": "b"})
    assert "a.jsonl:2: this row is of type `prompt_completion`; the first one is `text`" in told
    assert "a.jsonl:3" not in told


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"text": 5}, "`text` must be a text, this is a number"),
        ({"text": None}, "this is null"),
        ({"text": "a\ud800"}, "half a character (\\ud800) at 1"),
        (["x"], "an object with fields is needed, this is a list"),
        ({}, "fields seen: none"),
    ],
)
def test_a_text_that_is_none_is_refused(row: Any, words: str) -> None:
    assert words in _refused(row, kind="text")


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ("hi", "`messages` must be a list of messages, this is a text"),
        ([], "`messages` is an empty list"),
        (["hi"], "`messages`[0] must have `role` and `content`, this is a text"),
        ([{"content": "a"}], "`messages`[0] has no `role`"),
        ([{"role": "user"}], "`messages`[0] has no `content`"),
        ([{"role": "user", "content": None}], "`messages`[0].content must be a text"),
        ([{"role": "usr", "content": "a"}], "did you mean `user`?"),
        ([{"role": 1, "content": "a"}], "`messages`[0].role must be a text"),
    ],
)
def test_a_message_that_is_none_is_refused(messages: Any, words: str) -> None:
    assert words in _refused({"messages": messages}, kind="messages")


def test_a_history_that_is_no_list_of_pairs_is_refused() -> None:
    row = {"instruction": "a", "output": "b", "history": [["a"]]}
    assert "`history` must be a list of [asked, answered] pairs" in _refused(row)


def test_only_the_first_rows_are_shown() -> None:
    told = _refused(*[{"text": 1}] * 9, kind="text")
    assert told.count("must be a text") == 5
    assert "and 4 more" in told


def test_no_rows_are_no_records() -> None:
    assert _read() == ("auto", [])


def test_the_whole_of_a_record_is_all_that_is_said() -> None:
    turns = (Turn("user", "a"), Turn("assistant", "b"))
    assert Record(turns, None, "p").whole == "a\nb"
    assert Record(None, "c", "p").whole == "c"


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "from", "value", "x"]), inner)
    ),
    max_leaves=8,
)
_names = st.sampled_from(
    ["text", "prompt", "completion", "messages", "conversations", "instruction", "output"]
)


@given(st.lists(_json | st.dictionaries(_names, _json), max_size=4))
def test_any_rows_become_records_or_are_refused(rows: list[Any]) -> None:
    try:
        _, records = _read(*rows)
    except DataError:
        return
    assert [record.place for record in records] == [f"a.jsonl:{n + 1}" for n in range(len(rows))]
    assert all((record.turns is None) != (record.text is None) for record in records)
