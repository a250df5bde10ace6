"""Which rows are held out, and which rows of a source are taken: by a seeded hash of their content.

A row's side depends on its own content and the seed alone, never on its place or on the tokenizer:
the same content is always on the same side, and rows that are added later displace few others.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence

from lamina.core.errors import DataError
from lamina.data.formats import Record
from lamina.data.normal import normalised

COMPLETION = "a completion: text that an assistant says, or running text"


def content_key(record: Record, *, seed: int, purpose: str) -> bytes:
    """16 bytes that stand for a row's content (case and white space aside), the seed and a use."""
    text = normalised(record.whole).encode()
    return hashlib.blake2b(
        text, digest_size=16, key=seed.to_bytes(8, "little"), person=purpose.encode()
    ).digest()


def hold_out(
    records: Sequence[Record], *, rows: int, share: float, seed: int
) -> tuple[list[Record], list[Record]]:
    """(training rows, held-out rows), both in their order.

    Held out are the contents with the smallest hashes, with all their copies, as long as they are
    at most `rows` rows and at most `share` of all. A row without a completion is not held out: no
    loss could be measured on it.

    Raises:
        DataError: fewer than 2 rows would be held out. The caller says of which domain.
    """
    speaking = [place for place, record in enumerate(records) if record.says_something]
    if not speaking:
        raise DataError(f"none of its {len(records)} rows has {COMPLETION}.")
    limit = min(rows, math.floor(share * len(speaking) + 1e-9), len(speaking) - 1)
    if limit < 2:
        raise DataError(
            f"no held-out rows: {share:g} of {len(speaking)} rows is less than 2. Add rows, raise"
            " `heldout_share`, or give held-out rows of its own under `heldout:`."
        )
    places: dict[bytes, list[int]] = {}
    for place in speaking:
        record = records[place]
        key = content_key(record, seed=seed, purpose="heldout")
        places.setdefault(key, []).append(place)
    taken: set[int] = set()
    for key in sorted(places):
        if len(taken) + len(places[key]) <= limit:
            taken.update(places[key])
        if len(taken) == limit:
            break
    if len(taken) < 2:
        raise DataError(
            f"no held-out rows: its {len(speaking)} rows have only {len(places)} different"
            " contents, and equal rows stay on one side. Give held-out rows of its own under"
            " `heldout:`."
        )
    training = [record for place, record in enumerate(records) if place not in taken]
    return training, [records[place] for place in sorted(taken)]


def share_counts(sizes: Sequence[int], shares: Sequence[float | None]) -> list[int]:
    """How many rows to take of each source so that the shares hold with the most rows.

    Sources without a share are one pool, which gets what the shares leave; rows of the pool are
    counted in proportion to its sources' sizes. Shares hold to a row.
    """
    asked = [share for share in shares if share is not None]
    if not asked:
        return list(sizes)
    pool = [size for size, share in zip(sizes, shares, strict=True) if share is None]
    rest = 1 - math.fsum(asked) if pool else 0.0
    bounds = [size / share for size, share in zip(sizes, shares, strict=True) if share is not None]
    if pool:
        bounds.append(sum(pool) / rest)
    total = math.floor(min(bounds) + 1e-9)
    wanted = [
        total * (share if share is not None else rest * size / max(sum(pool), 1))
        for size, share in zip(sizes, shares, strict=True)
    ]
    counts = [min(math.floor(want + 1e-9), size) for want, size in zip(wanted, sizes, strict=True)]
    largest_rest = sorted(range(len(sizes)), key=lambda i: (counts[i] - wanted[i], i))
    for i in largest_rest:
        if sum(counts) < total and counts[i] < sizes[i]:
            counts[i] += 1
    return counts


def take(records: Sequence[Record], count: int, *, seed: int) -> list[Record]:
    """`count` of the rows, by a seeded hash of their content, in their order."""
    if count >= len(records):
        return list(records)
    keys: Mapping[int, bytes] = {
        place: content_key(record, seed=seed, purpose="share")
        for place, record in enumerate(records)
    }
    chosen = sorted(keys, key=lambda place: (keys[place], place))[:count]
    return [records[place] for place in sorted(chosen)]
