"""What differs between the machine a plan was made for and this one, field by field."""

from __future__ import annotations

from .cuda import Cuda
from .facts import BuildMachine, PlanFacts


def this_machine(cuda: Cuda) -> BuildMachine:
    """The calling thread's GPU and the driver."""
    device = cuda.device()
    return BuildMachine(
        gpu=cuda.gpu_name(device),
        compute_capability=cuda.compute_capability(device),
        driver=cuda.driver(),
    )


def differences(facts: PlanFacts, version: str, here: BuildMachine) -> tuple[str, ...]:
    """Each field that may keep the plan from running here, as "field: made for A, here is B".

    Args:
        facts: content of ``engine.json``.
        version: of the package here.
        here: from `this_machine`.

    Source: a plan holds for one version of the package and for the compute capabilities it was
    compiled for; https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/advanced.html
    """
    found = []
    if facts.package_version != version:
        found.append(f"version: made by {facts.target} {facts.package_version}, here is {version}")
    built = facts.built_on
    compiled = facts.compute_capabilities or ((built.compute_capability,) if built else ())
    if compiled and here.compute_capability not in compiled:
        found.append(f"SM: made for {', '.join(compiled)}, here is {here.compute_capability}")
    if built is not None:
        if built.gpu != here.gpu:
            found.append(f"GPU: tuned on {built.gpu}, here is {here.gpu}")
        if _older(here.driver, built.driver):
            found.append(f"driver: made with CUDA {built.driver}, here is CUDA {here.driver}")
    return tuple(found)


def _older(found: str, wanted: str) -> bool:
    return tuple(map(int, found.split("."))) < tuple(map(int, wanted.split(".")))
