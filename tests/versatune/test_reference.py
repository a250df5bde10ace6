"""Reference losses: measured alone and kept, given, or a fraction; degenerate ones are told."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lamina.core.domains import DomainLosses, RowLosses
from lamina.core.errors import DataError, RecipeError
from lamina.data.encode import Examples
from lamina.data.load import DomainData
from lamina.data.pack import unpacked
from lamina.engine.recipe import TrainSection
from lamina.engine.trainer import ClosedWindow
from lamina.versatune.recipe import ReferenceSection
from lamina.versatune.reference import Alone, reference_losses

NAMES = ("law", "code")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAMINA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def losses(step: int = 0, **by_name: float) -> DomainLosses:
    return DomainLosses(
        step,
        {n: RowLosses((9 * v, 11 * v), (10, 10), (40, 40)) for n, v in by_name.items()},
    )


def domain(name: str, fingerprint: str = "") -> DomainData:
    one = Examples(
        ids=np.zeros(2, np.int32),
        trained=np.array([False, True]),
        starts=np.array([0, 2], np.int64),
        num_bytes=np.array([4], np.int64),
        places=("a:1",),
    )
    return DomainData(name, unpacked(one), one, {}, fingerprint or name)


class Tunings:
    """Plays tunings whose held-out losses are known; counts them."""

    def __init__(self, **curves: list[float]) -> None:
        self.curves, self.names, self.trains = curves, [], []

    def __call__(self, name: str, train: TrainSection, steering: Alone, folder: Path) -> None:
        self.names.append(name)
        self.trains.append(train)
        curve = self.curves[name]
        steering.begin(losses(0, **{name: curve[0]}), None)
        for window in range(train.windows):
            step = (window + 1) * train.window_steps
            at = losses(step, **{name: curve[min(window + 1, len(curve) - 1)]})
            after = steering.close(
                ClosedWindow(
                    window=window, step=step, weights={name: 1.0}, rows={name: 1},
                    tokens={name: 1}, train_loss={name: 1.0}, rows_read={name: 1},
                    repeats={name: 1.0}, losses=at,
                )
            )  # fmt: skip
            if after.stop is not None:
                return


def asked(
    tmp_path: Path, tune_alone: Callable[..., None], start: Any = None, **keys: Any
) -> dict[str, Any]:
    told: list[str] = keys.pop("told", [])
    return reference_losses(
        ReferenceSection.model_validate(keys.pop("section", {})),
        {name: domain(name) for name in NAMES} | keys.pop("data", {}),
        TrainSection(window_steps=5, **keys.pop("train", {})),
        start,
        tune_alone=tune_alone,
        folder=tmp_path / "reference",
        model="print",
        tell=told.append,
        **keys,
    )


CURVES = {"law": [4.0, 3.0, 2.0, 2.1, 2.2, 1.0], "code": [2.0, 1.9, 1.8, 1.7, 1.6]}


def test_the_lowest_held_out_loss_before_patience_ends(tmp_path: Path) -> None:
    tunings = Tunings(**CURVES)
    section = {"windows": 4, "patience": 2}
    found = asked(tmp_path, tunings, section=section)
    assert found["losses"] == {"law": 2.0, "code": 1.6}  # law's 1.0 comes after two rises
    assert found["steps"] == {"law": 10, "code": 20}
    assert found["se"]["law"] == losses(0, law=2.0).ses()["law"]
    assert (found["way"], found["unit"], found["warnings"]) == ("tuned", "nats per token", [])
    assert all(train.windows == 4 and train.report_to == () for train in tunings.trains)


def test_what_was_measured_is_known_the_next_time(tmp_path: Path) -> None:
    tunings, told = Tunings(**CURVES), []
    first = asked(tmp_path, tunings)
    again = asked(tmp_path, tunings, told=told)
    assert again == first
    assert tunings.names == ["law", "code"]
    assert all("known from an earlier run" in line for line in told)


@pytest.mark.parametrize(
    "change",
    [
        {"data": {"law": domain("law", "other rows")}},
        {"train": {"learning_rate": 1.0}},
        {"section": {"patience": 1}},
        {"section": {"window_steps": 3}},
        {"unit": "nats per byte"},
    ],
    ids=["rows", "rate", "patience", "steps", "unit"],
)
def test_what_was_measured_otherwise_is_measured_again(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    tunings = Tunings(**CURVES)
    asked(tmp_path, tunings)
    asked(tmp_path, tunings, **change)
    assert tunings.names.count("law") == 2


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": "lamina.reference/1"}'])
def test_a_broken_cache_costs_a_tuning_and_nothing_else(
    tmp_path: Path, cache: Path, text: str
) -> None:
    tunings = Tunings(**CURVES)
    first = asked(tmp_path, tunings)
    files = sorted((cache / "reference").iterdir())
    assert len(files) == 2
    for file in files:
        file.write_text(text)
    assert asked(tmp_path, tunings) == first
    assert len(tunings.names) == 4


def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path, cache: Path) -> None:
    cache.write_text("a file, no folder")
    told: list[str] = []
    found = asked(tmp_path, Tunings(**CURVES), told=told)
    assert found["losses"]["law"] == 2.0
    assert sum("cannot be written" in line for line in told) == 2


def test_losses_are_compared_in_the_stages_unit(tmp_path: Path) -> None:
    found = asked(tmp_path, Tunings(**CURVES), unit="nats per byte")
    assert found["losses"] == {"law": 0.5, "code": 0.4}  # 4 bytes a token
    start = losses(law=4.0, code=2.0)
    part = asked(
        tmp_path, Tunings(), start, section={"way": "fraction", "fraction": 0.5},
        unit="nats per byte",
    )  # fmt: skip
    assert part["losses"] == {"law": 0.5, "code": 0.25}


def test_given_losses_are_taken_as_they_are(tmp_path: Path) -> None:
    section = {"way": "given", "losses": {"law": 1.5, "code": 1.0}}
    start = losses(law=4.0, code=2.0)
    assert asked(tmp_path, Tunings(), start, section=section)["losses"] == section["losses"]
    section = {"way": "given", "losses": {"law": 1.5}}
    with pytest.raises(RecipeError, match="no loss for code"):
        asked(tmp_path, Tunings(), start, section=section)


def test_a_degenerate_reference_is_told(tmp_path: Path) -> None:
    by_heart = asked(tmp_path, Tunings(law=[4.0, 0.001], code=[2.0, 0.001]))
    assert by_heart["degenerate"]
    assert any("learnt by heart" in line for line in by_heart["warnings"])
    no_gain = asked(tmp_path, Tunings(law=[4.0, 5.0], code=[2.0, 3.0]), section={"patience": 3})
    assert any("potential is 0" in line for line in no_gain["warnings"])


def test_a_tuning_that_diverges_is_named(tmp_path: Path) -> None:
    def diverges(*arguments: Any) -> None:
        raise DataError("the loss at step 3 is not finite")

    with pytest.raises(DataError, match="the tuning on law alone, for its reference loss"):
        asked(tmp_path, diverges)


def test_the_steering_of_one_domain_goes_through_its_state() -> None:
    one, other = Alone("law", 2), Alone("law", 2)
    one.begin(losses(law=2.0), None)
    other.restore(one.state())
    assert other == one


def test_another_number_of_processes_is_another_tuning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tunings = Tunings(law=[3.0, 2.0], code=[3.0, 1.0])
    asked(tmp_path, tunings)
    monkeypatch.setattr("lamina.engine.parallel.world", lambda: 2)
    asked(tmp_path, tunings)
    assert tunings.names == ["law", "code", "law", "code"]
