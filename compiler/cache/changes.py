"""Why a stage ran: what differs from the product of the same stage that was kept last."""

from __future__ import annotations

from collections.abc import Iterable

from ..recipe import changes
from .entry import Entry
from .key import StageKey


def rebuilt_because(entries: Iterable[Entry], key: StageKey) -> list[str]:
    """What differs from the nearest product of the same stage, model and target.

    Args:
        entries: of the cache.
        key: of the product that is not there.

    Returns:
        One line a field, such as ``texts: 'abc' -> 'def'``; empty when there is no other product.
        Of several the one with the fewest differences counts, of equals the newest.
    """
    alike = [
        entry
        for entry in entries
        if (entry.key.stage, entry.key.model, entry.key.target)
        == (key.stage, key.model, key.target)
    ]
    found = [(changes(entry.key.fields, key.fields), entry.created) for entry in alike]
    return min(found, key=lambda item: (len(item[0]), -item[1]))[0] if found else []
