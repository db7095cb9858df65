"""What differs between the machine a plan was made for and this one, field by field."""

from __future__ import annotations

from ..mismatch import Mismatch
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


def differences(
    facts: PlanFacts, version: str | None, here: BuildMachine | None
) -> tuple[Mismatch, ...]:
    """Each field that may keep the plan from running here.

    Args:
        facts: content of ``engine.json``.
        version: of the package here; None where it is not installed.
        here: from `this_machine`; None without a GPU that answers.

    Source: a plan holds for one version of the package and for the compute capabilities it was
    compiled for; https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/advanced.html
    """
    made_by = f"{facts.target} {facts.package_version}"
    if version == facts.package_version:
        return _gpu(facts, here)
    field = "package" if version is None else "version"
    return (Mismatch(field, made_by, version or "none"), *_gpu(facts, here))


def _gpu(facts: PlanFacts, here: BuildMachine | None) -> tuple[Mismatch, ...]:
    built = facts.built_on
    compiled = facts.compute_capabilities or ((built.compute_capability,) if built else ())
    listed = ", ".join(compiled) or "any"
    if here is None:
        name = f"{built.gpu} ({listed})" if built else f"one of {listed}"
        return (Mismatch("GPU", name, "none that answers"),)
    found = []
    if compiled and here.compute_capability not in compiled:
        found.append(Mismatch("compute capability", listed, here.compute_capability))
    if built is not None:
        if built.gpu != here.gpu:
            found.append(Mismatch("GPU", built.gpu, here.gpu))
        if _older(here.driver, built.driver):
            wanted = f"one for CUDA {built.driver} or newer"
            found.append(Mismatch("driver", wanted, f"CUDA {here.driver}"))
    return tuple(found)


def _older(found: str, wanted: str) -> bool:
    return tuple(map(int, found.split("."))) < tuple(map(int, wanted.split(".")))
