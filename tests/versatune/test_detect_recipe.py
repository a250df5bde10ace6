"""The `detect:` section: the defaults of the paper notes, and what is refused."""

import pytest

from lamina.core.errors import RecipeError
from lamina.core.recipe import validate
from lamina.versatune.detect_recipe import DetectSection


def section(**values: object) -> DetectSection:
    return validate(DetectSection, values, "recipe.yaml")


def test_the_defaults_are_those_of_the_paper_notes() -> None:
    default = section()
    assert (default.repeats, default.texts, default.max_new_tokens) == (5, 2000, 512)
    assert (default.temperature, default.top_p, default.repetition_penalty) == (1, 1, 1)
    assert (default.laplace, default.floor, default.judge) == (1, 0.01, "classifier")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"judge": "classifer"}, "`classifier`"),
        ({"judge": "endpoint"}, "nothing says where"),
        ({"judge": "model"}, "nothing says which"),
        ({"judge": "losses", "correct": True}, "`correct` needs a judge"),
        ({"texst": 3}, "did you mean `texts`"),
        ({"temperature": 0}, "greater than 0"),
        ({"top_p": 1.5}, "less than or equal to 1"),
        ({"model": {"path": "m", "prompt": "which?"}}, "lacks {domains} and {text}"),
        ({"endpoint": {"url": "ftp://a", "model": "m"}}, "begins with http"),
        ({"endpoint": {"url": "http://a:b/v1", "model": "m"}}, "no address"),
        ({"endpoint": {"url": "http://me:secret@host/v1", "model": "m"}}, "environment variable"),
        ({"endpoint": {"url": "http://host/v1?key=1", "model": "m"}}, "environment variable"),
    ],
)
def test_what_cannot_be_followed_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        section(**values)


def test_a_key_in_place_of_its_variable_is_refused() -> None:
    with pytest.raises(RecipeError, match="never put the key here") as refused:
        section(endpoint={"url": "http://h/v1", "model": "m", "api_key_env": "sk-123-abc"})
    assert "sk-123" not in str(refused.value)


def test_an_address_is_shortened_to_what_others_add_to() -> None:
    found = section(
        judge="endpoint", endpoint={"url": "http://h:1/v1/chat/completions", "model": "m"}
    )
    assert found.endpoint is not None
    assert found.endpoint.url == "http://h:1/v1"


def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"url": "http://h/v1", "model": "m", "api_key_env": "JUDGE_KEY"}
    monkeypatch.setenv("JUDGE_KEY", "secret")
    found = section(judge="endpoint", endpoint=asked)
    assert found.api_key() == "secret"
    assert "secret" not in found.model_dump_json()
    assert section().api_key() is None


@pytest.mark.parametrize("judge", ["none", None])
def test_without_a_judge_the_losses_say_it(judge: str | None) -> None:
    assert DetectSection.model_validate({"judge": judge}).judge == "losses"
