"""From what the user asks for to a ShapePlan: ``--shapes``, ``--profiles``, or the model's own."""

from __future__ import annotations

from collections.abc import Callable

from ...engines.text.batching import GPU_BUDGET
from ...errors import BuildError
from ...graph.tensors import ShapeProfile
from .edges import best_edges, padded_tokens
from .lengths import Lengths
from .plan import BATCH, SEQUENCE, ShapePlan

WIDE, AUTO = "wide", "auto"
MOST_PROFILES = 4
"""Of ``auto``: each adds its kernels to the plan and its share to the build."""

_MOST_ASKED = 16
MOST_BUCKETS = 16
"""Each is a CUDA graph a batch size, no kernel: a lane keeps 64 graphs."""

MULTIPLE = 8
"""Buckets are multiples: the tiles of a matrix product are 8 rows high at least."""

_SLACK = 0.02
"""An edge that saves less than this share of the tokens is not worth its profile or graph."""

_BEST_BATCH, _BEST_LENGTH = 8, 128
_MOST_TEXTS, _MOST_TOKENS = 64, 32768
"""Bounds of the default profile: an engine for 64 texts of 8,192 tokens would fit no GPU."""


def parse_profiles(asked: str) -> int | None:
    """The limit of profiles that ``wide``, ``auto`` or a number asks for; None for one wide.

    Raises:
        BuildError: on anything else.
    """
    if asked == WIDE:
        return None
    if asked == AUTO:
        return MOST_PROFILES
    if not asked.isdecimal() or not 1 <= int(asked) <= _MOST_ASKED:
        raise BuildError(
            f"profiles {asked!r}: expected {WIDE}, {AUTO}, or how many there may be, "
            f"1 to {_MOST_ASKED}"
        )
    return int(asked)


def check_shapes(shapes: tuple[str, ...], profiles: str) -> None:
    """Refuse what can be refused before the model is known.

    Raises:
        BuildError: on an unknown `profiles`, or both options at once.
        FeedError: on shapes of another form.
    """
    for text in shapes:
        ShapeProfile.parse(text)
    if parse_profiles(profiles) is not None and shapes:
        raise BuildError(
            f"--profiles {profiles} derives the shapes that --shapes {shapes[0]} states; give one "
            "of them"
        )


def plan_shapes(
    shapes: tuple[str, ...], profiles: str, longest: int, lengths: Callable[[], Lengths]
) -> ShapePlan:
    """The sizes the engines are built for.

    Args:
        shapes: profiles as text, in any order; empty to derive them.
        profiles: ``wide``, ``auto``, or the most there may be.
        longest: tokens the model takes.
        lengths: of the user's texts; called where the profiles are fitted to them.

    Raises:
        BuildError: on shapes with other axes, beyond the model, or with gaps.
        FeedError: on shapes of another form.
    """
    if shapes:
        return ShapePlan(profiles=_stated(shapes, longest))
    most = parse_profiles(profiles)
    if most is None:
        return ShapePlan(profiles=(wide_profile(longest),))
    return fitted(lengths(), longest, most=most)


def wide_profile(longest: int) -> ShapeProfile:
    """One profile for all sizes, bounded to what fits a GPU."""
    most = max(1, min(_MOST_TEXTS, _MOST_TOKENS // longest))
    best = min(_BEST_LENGTH, longest)
    return ShapeProfile({BATCH: (1, min(_BEST_BATCH, most), most), SEQUENCE: (1, best, longest)})


def fitted(lengths: Lengths, longest: int, *, most: int) -> ShapePlan:
    """Buckets that pad the texts least, and the profiles that hold them.

    Every call is padded to a bucket, and a profile holds one or more neighbouring buckets: what
    a bucket costs is a CUDA graph, what a profile costs is its kernels. Both are chosen by
    `best_edges`, the buckets among the multiples of 8, the ends of the profiles among the
    buckets. Profiles take disjoint ranges of lengths, so each length has one. A profile is tuned
    for its bucket with the most padded tokens, and takes as many texts as the token budget of
    the runtime lets stand in one batch at its end.

    Args:
        lengths: of the user's texts, none above `longest`.
        longest: tokens the model takes; the last profile takes as many.
        most: profiles at most.
    """
    grid = (*range(MULTIPLE, longest, MULTIPLE), longest)
    buckets = best_edges(lengths.counts, grid, most=MOST_BUCKETS, slack=_SLACK)
    ends = best_edges(lengths.counts, buckets, most=most, slack=_SLACK)
    starts = (1, *(end + 1 for end in ends[:-1]))
    ranges = zip(starts, ends, strict=True)
    chosen = tuple(
        _profile(start, end, _busiest(lengths, buckets, start, end)) for start, end in ranges
    )
    real = max(1, lengths.tokens)
    return ShapePlan(
        profiles=chosen,
        buckets=buckets,
        padding={
            "source": lengths.source,
            "texts": lengths.texts,
            "tokens": lengths.tokens,
            "to_bucket": round(padded_tokens(lengths.counts, buckets) / real, 4),
            "to_profile": round(padded_tokens(lengths.counts, ends) / real, 4),
            "to_longest": round(padded_tokens(lengths.counts, (longest,)) / real, 4),
        },
    )


def _busiest(lengths: Lengths, buckets: tuple[int, ...], start: int, end: int) -> int:
    """The bucket of a profile that most tokens run in; its end when no text is there."""
    own = [bucket for bucket in buckets if start <= bucket <= end]
    texts = dict.fromkeys(own, 0)
    for length, count in lengths.counts.items():
        if start <= length <= end:
            texts[next(bucket for bucket in own if bucket >= length)] += count
    return max(own, key=lambda bucket: (texts[bucket] * bucket, bucket))


def _profile(start: int, end: int, best: int) -> ShapeProfile:
    most = max(1, min(GPU_BUDGET.max_batch, GPU_BUDGET.max_tokens // end))
    return ShapeProfile({BATCH: (1, min(_BEST_BATCH, most), most), SEQUENCE: (start, best, end)})


def _stated(shapes: tuple[str, ...], longest: int) -> tuple[ShapeProfile, ...]:
    found = [_checked(text, longest) for text in shapes]
    return tuple(sorted(found, key=lambda profile: profile.axes[SEQUENCE][2]))


def _checked(text: str, longest: int) -> ShapeProfile:
    profile = ShapeProfile.parse(text)
    if set(profile.axes) != {BATCH, SEQUENCE}:
        raise BuildError(
            f"shapes {text!r}: expected the axes batch and sequence, got "
            f"{', '.join(profile.axes)}; for example batch=1:8:64,sequence=1:128:{longest}"
        )
    if profile.axes[SEQUENCE][2] > longest:
        raise BuildError(
            f"shapes {text!r}: a sequence of {profile.axes[SEQUENCE][2]} is more than the "
            f"{longest} tokens the model takes"
        )
    return profile
