"""What goes into and comes out of a graph or an engine: names, dtypes, symbolic dims, profiles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import FeedError

Dim = int | str
"""A static size, or the name of a dynamic axis such as ``batch``."""

Array = NDArray[np.generic]
Feeds = Mapping[str, Array]


@dataclass(frozen=True)
class TensorSpec:
    """Name, dtype and dims of one input or output.

    Attributes:
        name: the tensor's name in the graph.
        dtype: numpy name of the dtype, for example ``int64`` or ``float32``.
        dims: one entry an axis; a string names a dynamic axis, equal names mean equal sizes.
    """

    name: str
    dtype: str
    dims: tuple[Dim, ...]

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.dims))}]"


def check_feeds(specs: tuple[TensorSpec, ...], feeds: Feeds) -> dict[str, int]:
    """Check feeds against specs and bind the dynamic axes.

    Args:
        specs: the inputs of an engine.
        feeds: one array an input; nothing is copied or cast.

    Returns:
        The size of every dynamic axis, by name.

    Raises:
        FeedError: on missing or unknown names, another dtype or rank, a wrong static size, an
            empty axis, or two inputs that disagree about one dynamic axis.
    """
    if not isinstance(feeds, Mapping):
        raise FeedError(
            f"feeds: expected a dict of input name to array, got {type(feeds).__name__}"
        )
    wanted = {spec.name for spec in specs}
    if wanted != set(feeds):
        missing, unknown = sorted(wanted - set(feeds)), sorted(set(feeds) - wanted)
        raise FeedError(
            f"feeds: expected exactly the inputs {sorted(wanted)}, got {sorted(feeds)} "
            f"(missing {missing}, unknown {unknown}); feed one array per input"
        )
    sizes: dict[str, int] = {}
    for spec in specs:
        _check_feed(spec, feeds[spec.name], sizes)
    return sizes


def _check_feed(spec: TensorSpec, array: Array, sizes: dict[str, int]) -> None:
    if not isinstance(array, np.ndarray):
        raise FeedError(f"feed {spec.name!r}: expected a numpy array, got {type(array).__name__}")
    if array.dtype != np.dtype(spec.dtype):
        raise FeedError(
            f"feed {spec.name!r}: expected dtype {spec.dtype}, got {array.dtype}; "
            f"convert it with .astype({spec.dtype!r})"
        )
    if array.ndim != len(spec.dims):
        raise FeedError(
            f"feed {spec.name!r}: expected rank {len(spec.dims)} ({spec}), "
            f"got shape {list(array.shape)}"
        )
    for axis, (dim, size) in enumerate(zip(spec.dims, array.shape, strict=True)):
        expected = sizes.setdefault(dim, size) if isinstance(dim, str) else dim
        if size != expected or size == 0:
            raise FeedError(
                f"feed {spec.name!r}: axis {axis} ({dim}) has size {size}, "
                f"expected {expected if size != expected else 'at least 1'}"
            )


@dataclass(frozen=True)
class ShapeProfile:
    """The sizes an engine is built for: minimum, optimum and maximum of every dynamic axis.

    Attributes:
        axes: name of a dynamic axis -> (min, opt, max), each at least 1 and in order.
    """

    axes: Mapping[str, tuple[int, int, int]]

    def __post_init__(self) -> None:
        for name, (low, best, high) in self.axes.items():
            if not 1 <= low <= best <= high:
                raise FeedError(
                    f"shape profile: axis {name!r} needs 1 <= min <= opt <= max, "
                    f"got {low}:{best}:{high}"
                )

    @classmethod
    def parse(cls, text: str) -> ShapeProfile:
        """Read ``batch=1:8:32,sequence=1:128:256``.

        Raises:
            FeedError: when the text has another form.
        """
        axes: dict[str, tuple[int, int, int]] = {}
        for part in text.split(","):
            name, _, sizes = part.partition("=")
            try:
                low, best, high = (int(size) for size in sizes.split(":"))
            except ValueError:
                raise FeedError(
                    f"shape profile: expected AXIS=MIN:OPT:MAX[,...], got {part!r} in {text!r}; "
                    "for example batch=1:8:32,sequence=1:128:256"
                ) from None
            name = name.strip()
            if not name or name in axes:
                fault = f"names {name!r} twice" if name else f"names no axis in {part!r}"
                raise FeedError(
                    f"shape profile: expected one AXIS=MIN:OPT:MAX an axis; {text!r} {fault}"
                )
            axes[name] = (low, best, high)
        return cls(axes)

    def __str__(self) -> str:
        return ",".join(
            f"{name}={low}:{best}:{high}" for name, (low, best, high) in self.axes.items()
        )

    def shapes(self, spec: TensorSpec) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Minimum, optimum and maximum shape of one tensor.

        Raises:
            FeedError: when the profile does not name a dynamic axis of the tensor.
        """
        unknown = [dim for dim in spec.dims if isinstance(dim, str) and dim not in self.axes]
        if unknown:
            raise FeedError(
                f"shape profile {self}: input {spec} has the dynamic axis {unknown[0]!r}, "
                "which the profile does not name"
            )
        low, best, high = (
            tuple(self.axes[dim][which] if isinstance(dim, str) else dim for dim in spec.dims)
            for which in range(3)
        )
        return low, best, high

    def check(self, sizes: Mapping[str, int]) -> None:
        """Check bound axis sizes against the profile.

        Raises:
            FeedError: when a size lies outside.
        """
        for name, size in sizes.items():
            low, _, high = self.axes.get(name, (1, 1, size))
            if not low <= size <= high:
                raise FeedError(
                    f"axis {name!r} has size {size}, but the engine was built for {low} to {high}; "
                    f"split or pad the input, or rebuild with --shapes {name}={low}:..:{size}"
                )
