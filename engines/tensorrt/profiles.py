"""ShapeProfile -> optimisation profile, with the checks that TensorRT leaves to its caller."""

from __future__ import annotations

from typing import Any

from ...errors import BuildError, FeedError
from ...graph.tensors import ShapeProfile, TensorSpec

_ONE = (1, 1, 1)


def engine_profiles(
    asked: tuple[ShapeProfile, ...],
    whole: ShapeProfile,
    inputs: tuple[TensorSpec, ...],
    caches: tuple[str, ...],
) -> tuple[ShapeProfile, ...]:
    """The profiles an engine gets: for a decoder one more, which takes one token a row.

    Prefill and decoding share one engine, hence one copy of the weights. Decoding runs kernels
    chosen for a single token; its profile differs in the axes that the caches do not have.

    Args:
        asked: the first profiles; empty for `whole` alone.
        whole: the range of all of them.
        inputs: inputs of the graph.
        caches: names of the inputs that are written in place; none for other models.
    """
    profiles = asked or (whole,)
    if not caches:
        return profiles
    held = {dim for spec in inputs if spec.name in caches for dim in spec.dims}
    decode = {name: sizes if name in held else _ONE for name, sizes in whole.axes.items()}
    return profiles if decode == dict(whole.axes) else (*profiles, ShapeProfile(decode))


def add_profile(
    builder: Any,
    network: Any,
    builder_config: Any,
    *,
    inputs: tuple[TensorSpec, ...],
    shapes: ShapeProfile,
) -> None:
    """Give the builder the shape range of every input.

    Names are taken from the network, because TensorRT accepts a profile for an input that does
    not exist.

    Args:
        builder: an ``IBuilder``.
        network: the parsed ``INetworkDefinition``.
        builder_config: the ``IBuilderConfig`` that receives the profile.
        inputs: inputs of the graph, with named dynamic axes.
        shapes: minimum, optimum and maximum of every dynamic axis.

    Raises:
        BuildError: on a dynamic axis that ``shapes`` does not name, an input whose value sets a
            shape, or ranges that TensorRT refuses.
    """
    specs = {spec.name: spec for spec in inputs}
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        if tensor.is_shape_tensor:
            raise BuildError(
                f"input {tensor.name!r} sets a shape by its value, expected inputs that are "
                "data; export the model without it or make it a constant"
            )
        _set_shape(profile, specs[tensor.name], shapes)
    if not profile or builder_config.add_optimization_profile(profile) < 0:
        raise BuildError(
            f"TensorRT refuses the shape profile {shapes} for the inputs "
            f"{', '.join(map(str, inputs))}; check that every size is possible for the model"
        )


def _set_shape(profile: Any, spec: TensorSpec, shapes: ShapeProfile) -> None:
    try:
        low, best, high = shapes.shapes(spec)
        profile.set_shape(spec.name, low, best, high)
    except (FeedError, ValueError) as error:
        raise BuildError(str(error)) from error
