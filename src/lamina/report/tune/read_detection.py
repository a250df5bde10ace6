"""What a detection left: shares, the judge's own accuracy, and a handful of the sampled texts."""

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

from lamina.report.soft import Soft, json_line, soft_json
from lamina.report.tune.nouns import Detection, Judge, Text

MOST_TEXTS = 20_000
_LONGEST_LINE = 1_000_000
_LONGEST_TEXT = 700
_SHOWN = 8


def read_detection(folder: Path, problems: list[str], *, prefix: str = "") -> Detection | None:
    """The folder of a detection; None where there is none."""
    place = soft_json(folder / "shares.json", problems, name=f"{prefix}shares.json")
    if not isinstance(place.value, dict):
        if place.value is not None:
            place.wrong("an object")
        return None
    shares = place.get("shares").numbers()
    domains = place.get("domains").texts() or tuple(shares)
    return Detection(
        domains=domains,
        shares=shares,
        se=place.get("se").numbers(),
        raw=place.get("raw").numbers(),
        repeats=tuple(one.numbers() for one in place.get("repeats").listed()),
        texts=place.get("texts").number(),
        tokens=place.get("tokens").number(),
        invalid=place.get("invalid").number(),
        judge=_judge(place.get("judge")),
        corrected=place.get("corrected").value is True,
        stopped=place.get("stopped").text(),
        finished=place.get("finished").number(),
        warnings=place.get("warnings").texts(),
        settings=_settings(place),
        sampled=_handful(folder / "texts.jsonl.gz", domains, problems, prefix),
    )


def _settings(place: Soft) -> dict[str, object]:
    """Settings and what is known of the judge, one level of nesting made flat."""
    found: dict[str, object] = {}
    known = ("kind", "accuracy", "accuracy_se", "rows", "confusion")
    judge = place.get("judge")
    facts = judge.cleaned() if isinstance(judge.value, dict) else {}
    own = {f"judge {key}": value for key, value in facts.items() if key not in known}
    for key, value in {**place.get("settings").cleaned(), **own}.items():
        if isinstance(value, dict):
            found |= {f"{key} {inner}": one for inner, one in value.items()}
        else:
            found[key] = value
    return found


def _judge(place: Soft) -> Judge | None:
    if place.value is None:
        return None
    if isinstance(place.value, str):
        return Judge(place.text(), None, None, None, {})
    return Judge(
        kind=place.get("kind").text(),
        accuracy=place.get("accuracy").number(),
        accuracy_se=place.get("accuracy_se").number(),
        rows=place.get("rows").number(),
        confusion={name: one.numbers() for name, one in place.get("confusion").items()},
    )


def _lines(path: Path, problems: list[str], name: str) -> Iterator[str]:
    """The lines of a gzip file, as far as it can be read."""
    try:
        with gzip.open(path, "rb") as file:
            for _ in range(MOST_TEXTS):
                line = file.readline(_LONGEST_LINE)
                if not line:
                    return
                yield line.decode("utf-8", errors="replace")
    except (OSError, EOFError, zlib.error) as error:
        problems.append(
            f"{name} cannot be read to its end ({str(error).replace(str(path), name)})."
        )


def _handful(
    path: Path, domains: tuple[str, ...], problems: list[str], prefix: str
) -> tuple[Text, ...]:
    """The first text of each domain, one that was not judged, then others in their order."""
    if not path.is_file():
        return ()
    name = f"{prefix}{path.name}"
    first: dict[str, Text] = {}
    others: list[Text] = []
    bad = 0
    for line in _lines(path, problems, name):
        value = json_line(line)
        if not isinstance(value, dict):
            bad += bool(line.strip())
            continue
        text = _text(Soft(value, name, problems))
        top = top_of(text)
        if top not in first and (not top or top in domains) and len(first) < _SHOWN:
            first[top] = text
        elif len(others) < _SHOWN:
            others.append(text)
        elif len(first) > len(domains):
            break
    if bad:
        problems.append(f"{name}: {bad} {'lines' if bad > 1 else 'line'} cannot be read.")
    ordered = sorted(first, key=lambda one: domains.index(one) if one in domains else len(domains))
    return tuple([*(first[one] for one in ordered), *others][:_SHOWN])


def top_of(text: Text) -> str:
    """The domain that the judge finds likeliest; empty where nothing was judged."""
    return max(text.judged, key=text.judged.__getitem__) if text.judged else ""


def _text(place: Soft) -> Text:
    whole = place.get("text").text()
    finished = place.get("finished").value
    return Text(
        text=whole[:_LONGEST_TEXT],
        cut=len(whole) > _LONGEST_TEXT,
        tokens=place.get("tokens").number(),
        finished=finished if isinstance(finished, bool) else None,
        repeat=place.get("repeat").number(),
        judged=place.get("judged").numbers() or None,
    )
