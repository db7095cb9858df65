"""One call before it meets a lane: which profile takes it, and the sizes it runs at."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from ....errors import FeedError
from ....graph.tensors import Array, Feeds, ShapeProfile, TensorSpec, check_feeds
from ..facts import PlanFacts

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a lane must know of a call besides the arrays.

    Attributes:
        profile: index of the optimisation profile.
        key: sizes of the dynamic axes the plan runs at, in a fixed order; with the profile, all
            that two calls must have in common to run the same CUDA graph.
        shapes: shape of every input the plan runs at.
        sizes: size of every dynamic axis as fed.
        padded: the axes that run at another size than fed.
    """

    profile: int
    key: tuple[int, ...]
    shapes: Mapping[str, Shape]
    sizes: Mapping[str, int]
    padded: frozenset[str]


class RequestReader:
    """Checks feeds and turns them into requests.

    Args:
        facts: inputs, outputs and profiles of the plan.
        buckets: for some dynamic axes, the sizes that calls are padded up to.

    Raises:
        FeedError: when the buckets name an axis the plan has not, or do not reach its maximum, or
            the padding of an output could not be told from its content.
    """

    def __init__(self, facts: PlanFacts, buckets: Mapping[str, tuple[int, ...]]) -> None:
        self._inputs = facts.inputs
        self._whole = facts.profile
        self._profiles = facts.profiles
        self._buckets = {axis: tuple(sorted(grid)) for axis, grid in buckets.items()}
        for axis, grid in self._buckets.items():
            _check_grid(axis, grid, facts.profile)
        if buckets:
            _check_outputs(facts)
        # From small to large, so that the first that fits is the one tuned for such sizes.
        self._by_size = sorted(
            range(len(facts.profiles)), key=lambda index: _volume(facts.profiles[index])
        )

    def read(self, feeds: Feeds) -> Request:
        """Check feeds and find their profile and bucket.

        Raises:
            FeedError: on wrong names, dtypes, ranks or sizes, or sizes outside every profile.
        """
        sizes = check_feeds(self._inputs, feeds)
        return self._request(sizes, {axis: self._pad(axis, size) for axis, size in sizes.items()})

    def exact(self, feeds: Feeds) -> Request:
        """Check feeds and find their profile, for a run at the sizes fed; see `read`."""
        sizes = check_feeds(self._inputs, feeds)
        return self._request(sizes, sizes)

    def _request(self, sizes: Mapping[str, int], bucket: Mapping[str, int]) -> Request:
        return Request(
            profile=self._choose(sizes, bucket),
            key=tuple(bucket.values()),
            shapes={spec.name: _shape(spec, bucket) for spec in self._inputs},
            sizes=sizes,
            padded=frozenset(axis for axis, size in sizes.items() if bucket[axis] != size),
        )

    def _pad(self, axis: str, size: int) -> int:
        grid = self._buckets.get(axis)
        if grid is None or size > grid[-1]:
            return size
        return grid[bisect_left(grid, size)]

    def _choose(self, sizes: Mapping[str, int], bucket: Mapping[str, int]) -> int:
        for index in self._by_size:
            if _fits(self._profiles[index], bucket):
                return index
        self._whole.check(sizes)  # says which axis is at fault
        raise FeedError(
            f"no profile of the engine takes the sizes {dict(bucket)}; it was built for "
            f"{' and '.join(map(str, self._profiles))}, rebuild it with one that does"
        )


def actual(spec: TensorSpec, array: Array, request: Request) -> Array:
    """The part of an output that belongs to what was fed, without the padding."""
    if request.padded.isdisjoint(spec.dims):
        return array
    cut = (
        slice(request.sizes[dim]) if isinstance(dim, str) and dim in request.padded else slice(None)
        for dim in spec.dims
    )
    return array[tuple(cut)]


def _check_grid(axis: str, grid: Shape, ranges: ShapeProfile) -> None:
    if axis not in ranges.axes:
        raise FeedError(
            f"buckets: expected dynamic axes of the engine ({', '.join(ranges.axes)}), got {axis!r}"
        )
    low, _, high = ranges.axes[axis]
    if not grid or grid[0] < low or grid[-1] != high:
        raise FeedError(
            f"buckets: axis {axis!r} needs sizes from {low} that end at {high}, the range the "
            f"engine was built for; got {list(grid)}"
        )


def _check_outputs(facts: PlanFacts) -> None:
    known = {dim for spec in facts.inputs for dim in spec.dims}
    for spec in facts.outputs:
        unknown = [dim for dim in spec.dims if isinstance(dim, str) and dim not in known]
        if unknown:
            raise FeedError(
                f"buckets: output {spec} has the axis {unknown[0]!r}, which no input has, so its "
                "padding cannot be cut off; load the engine without buckets"
            )


def _fits(ranges: ShapeProfile, sizes: Mapping[str, int]) -> bool:
    axes = ranges.axes
    return all(
        axes[name][0] <= size <= axes[name][2] for name, size in sizes.items() if name in axes
    )


def _volume(ranges: ShapeProfile) -> int:
    return prod(high for _, _, high in ranges.axes.values())


def _shape(spec: TensorSpec, sizes: Mapping[str, int]) -> Shape:
    return tuple(sizes[dim] if isinstance(dim, str) else dim for dim in spec.dims)
