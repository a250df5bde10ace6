"""Judging of log-likelihoods, by hand-worked numbers."""

import math

import pytest

from lamina.evaluate.nouns import ChoiceItem, Pair
from lamina.evaluate.tasks.choices import (
    highest,
    judge_acc_norm,
    judge_lambada,
    judge_truthfulqa,
    per_character,
    read_boolq,
    read_hellaswag,
    read_lambada,
    read_truthfulqa,
    read_winogrande,
)


def test_the_first_of_ties_is_the_highest() -> None:
    assert highest([-2.0, -1.0, -1.0]) == 1


def test_what_is_not_a_number_counts_as_highest() -> None:
    assert highest([-1.0, math.nan, 5.0, math.nan]) == 1


def test_an_empty_choice_is_the_worst_by_character() -> None:
    assert per_character([-4.0, -1.0], [4, 0]) == [-1.0, -math.inf]
    assert math.isnan(per_character([0.0], [0])[0])


def test_a_long_choice_may_win_by_character_only() -> None:
    pairs = (Pair("q", "no"), Pair("q", "certainly"))
    item = ChoiceItem("0", pairs, gold=(1,), lengths=(2, 9))
    judged = judge_acc_norm(item, {"logprobs": [-4.0, -9.0]})
    assert judged == {"acc": (0.0, 1.0), "acc_norm": (1.0, 1.0)}


TRUTHFUL = {
    "question": "q",
    "mc1_targets": {"choices": ["right", "wrong", "other"], "labels": [1, 0, 0]},
    "mc2_targets": {"choices": ["wrong", "right", "also"], "labels": [0, 1, 1]},
}


def test_answers_that_both_forms_of_truthfulqa_share_are_scored_once() -> None:
    item = read_truthfulqa(TRUTHFUL).item
    assert isinstance(item, ChoiceItem)
    assert [pair.continuation for pair in item.pairs] == ["wrong", "right", "also", "other"]
    assert item.asked == ((1, 0, 3), (0, 1, 2))
    assert item.gold == (1, 2)


def test_truthfulqas_mass_is_on_the_right_answers_of_the_second_form() -> None:
    item = read_truthfulqa(TRUTHFUL).item
    logprobs = [math.log(0.1), math.log(0.2), math.log(0.1), math.log(0.5)]
    judged = judge_truthfulqa(item, {"logprobs": logprobs})
    assert judged["mc1"] == (0.0, 1.0)
    assert judged["mc2"][0] == pytest.approx(0.75, rel=1e-15)
    judged = judge_truthfulqa(item, {"logprobs": [-3.0, -1.0, -2.0, -1.5]})
    assert judged["mc1"] == (1.0, 1.0)


def test_a_mass_too_small_for_a_float_is_still_a_quotient() -> None:
    item = read_truthfulqa(TRUTHFUL).item
    judged = judge_truthfulqa(item, {"logprobs": [-2000.0, -2000.0, -2000.0, -1.0]})
    assert judged["mc2"][0] == pytest.approx(2 / 3, rel=1e-15)


def test_lambada_scores_the_last_word_with_its_blank() -> None:
    item = read_lambada({"text": "He said  it"}).item
    assert isinstance(item, ChoiceItem)
    assert item.pairs == (Pair("He said ", " it"),)
    judged = judge_lambada(item, {"logprobs": [-2.5], "greedy": [True]})
    assert judged == {"acc": (1.0, 1.0), "perplexity": (2.5, 1.0)}


def test_winogrande_scores_one_end_after_two_beginnings() -> None:
    row = {"sentence": "When _ won, it_s fun .", "option1": "Ann", "option2": "B", "answer": "2"}
    item = read_winogrande(row).item
    assert isinstance(item, ChoiceItem)
    assert item.pairs == (Pair("When Ann", "won, it_s fun ."), Pair("When B", "won, it_s fun ."))
    assert item.gold == (1,)


@pytest.mark.parametrize(("answer", "gold"), [(True, 1), (False, 0)])
def test_boolq_takes_true_and_false(answer: bool, gold: int) -> None:
    item = read_boolq({"passage": "P.", "question": "is it", "answer": answer}).item
    assert isinstance(item, ChoiceItem)
    assert item.gold == (gold,)
    assert item.pairs[gold] == Pair("P.\nQuestion: is it?\nAnswer:", ("no", "yes")[gold])


def test_hellaswags_marks_are_taken_out() -> None:
    item = read_hellaswag(
        {
            "activity_label": "Cooking",
            "ctx_a": "[header] Boil [title] water [step] now.",
            "ctx_b": "THEN you",
            "endings": ["  eat  it", "[substeps] go"],
            "label": "1",
        }
    ).item
    assert isinstance(item, ChoiceItem)
    assert item.pairs[0] == Pair("Cooking: Boil. water now. Then you", "eat it")
    assert item.pairs[1].continuation == " go"
    assert item.lengths == (6, 3)
