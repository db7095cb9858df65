"""Open a plan on this machine's GPU, or say precisely why it does not open."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...errors import BundleError, DeviceError
from ..mismatch import Mismatch
from .cuda import Cuda
from .facts import BuildMachine, PlanFacts
from .fit import differences, this_machine
from .log import LogLines, make_logger
from .runtime_cache import RuntimeCache

_LOG_LINES = 200

_NUMPY_NAMES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT64": "int64",
    "INT32": "int32",
    "INT8": "int8",
    "UINT8": "uint8",
    "BOOL": "bool",
    "FP8": "float8_e4m3fn",
    "INT4": "int4",
    "FP4": "float4_e2m1fn",
}
_FOREIGN_TO_NUMPY = frozenset({"bfloat16", "float8_e4m3fn", "int4", "float4_e2m1fn"})


@dataclass(frozen=True, kw_only=True)
class OpenPlan:
    """A deserialised plan; its contexts are made from it.

    Attributes:
        target: ``tensorrt`` or ``tensorrt-rtx``, for errors.
        trt: the flavour's module.
        engine: the ``ICudaEngine``; thread-safe, and the only copy of the weights.
        runtime: the ``IRuntime`` behind the engine.
        logger: the ``ILogger`` behind the runtime.
        lines: what the library said, newest lines only.
        notes: what the user should know about this plan on this GPU.
        compiled: kernels compiled at run time; None for a flavour that compiles none.
    """

    target: str
    trt: Any
    engine: Any
    runtime: Any
    logger: Any
    lines: LogLines
    notes: tuple[str, ...]
    compiled: RuntimeCache | None = None

    def create_context(self) -> Any:
        """A new ``IExecutionContext`` whose scratch memory the caller provides.

        Raises:
            DeviceError: when TensorRT cannot, with its own messages.
        """
        strategy = self.trt.ExecutionContextAllocationStrategy.USER_MANAGED
        how = strategy if self.compiled is None else self.compiled.config
        context = self.engine.create_execution_context(how)
        if context is None:
            raise DeviceError(
                f"TensorRT cannot create an execution context: {self.lines.take_problems()}; "
                "its profile may need more memory than the GPU has free, load with fewer lanes "
                "or rebuild with a smaller profile"
            )
        return context


def open_plan(trt: Any, cuda: Cuda, plan: bytes, facts: PlanFacts) -> OpenPlan:
    """Deserialise a plan and check that it is the one that ``facts`` describe.

    Args:
        trt: the flavour's module.
        cuda: to name this machine's GPU in errors.
        plan: content of ``engine.plan``.
        facts: content of ``engine.json``.

    Raises:
        DeviceError: when the GPU, the driver or the package's version cannot run the plan.
        BundleError: when the plan is damaged or has other inputs or outputs than ``facts`` say.
    """
    lines = LogLines(_LOG_LINES)
    logger = make_logger(trt, lines, verbose=False)
    runtime = trt.Runtime(logger)
    here = this_machine(cuda)
    differs = differences(facts, str(trt.__version__), here)
    notes = tuple(f"the plan opens, but may be slower than one built here: {d}" for d in differs)
    if hasattr(trt.Runtime, "get_engine_validity"):
        validity, diagnostics = runtime.get_engine_validity(plan)
        reasons = _diagnostics(trt, int(diagnostics)) or (lines.take_problems(),)
        notes += _judge(trt, validity, reasons, here, differs)
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise DeviceError(
            f"TensorRT cannot load the plan on this {here.compute_capability} GPU: "
            f"{lines.take_problems()}; {_explain(differs)}; rebuild it here"
        )
    _check_tensors(trt, engine, facts)
    _refuse_foreign_memory(trt, engine, facts)
    compiled = RuntimeCache.of(trt, engine, plan, here)
    if compiled is not None and compiled.note is not None:
        notes += (compiled.note,)
    return OpenPlan(
        target=facts.target,
        trt=trt,
        engine=engine,
        runtime=runtime,
        logger=logger,
        lines=lines,
        notes=notes,
        compiled=compiled,
    )


def _judge(
    trt: Any,
    validity: Any,
    reasons: tuple[str, ...],
    here: BuildMachine,
    differs: tuple[Mismatch, ...],
) -> tuple[str, ...]:
    if "MALFORMED_ENGINE" in reasons:
        raise BundleError(
            "the plan is damaged or is not a plan of this flavour (MALFORMED_ENGINE); copy the "
            "bundle again or rebuild it"
        )
    if not hasattr(trt, "EngineValidity"):
        return ()
    where = f"on this {here.compute_capability} GPU"
    why = f"({', '.join(reasons)}); {_explain(differs)}"
    if validity == trt.EngineValidity.INVALID:
        raise DeviceError(
            f"the plan cannot run {where} {why}; "
            "rebuild for this GPU, update the driver, or run another target of the bundle"
        )
    if validity == trt.EngineValidity.SUBOPTIMAL:
        return (f"the plan runs {where} but is not the best for it {why}",)
    return ()


def _diagnostics(trt: Any, bits: int) -> tuple[str, ...]:
    if not hasattr(trt, "EngineInvalidityDiagnostics"):
        return ()
    members = trt.EngineInvalidityDiagnostics.__members__
    return tuple(name for name, member in members.items() if bits & int(member))


def _explain(differs: tuple[Mismatch, ...]) -> str:
    return "; ".join(map(str, differs)) or "version, SM, GPU and driver are those it was made for"


def _check_tensors(trt: Any, engine: Any, facts: PlanFacts) -> None:
    found = set()
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        dtype = engine.get_tensor_dtype(name).name
        found.add(("input" if is_input else "output", name, _NUMPY_NAMES.get(dtype, dtype)))
    stated = {("input", spec.name, spec.dtype) for spec in facts.inputs}
    stated |= {("output", spec.name, spec.dtype) for spec in facts.outputs}
    if len(facts.profiles) > engine.num_optimization_profiles:
        raise BundleError(
            f"engine.json states {len(facts.profiles)} profiles, but the plan has "
            f"{engine.num_optimization_profiles}; the files belong to different builds, rebuild "
            "the bundle"
        )
    if found != stated:
        raise BundleError(
            f"engine.json states the tensors {sorted(stated)}, but the plan has {sorted(found)}; "
            "the files belong to different builds, rebuild the bundle"
        )


def _refuse_foreign_memory(trt: Any, engine: Any, facts: PlanFacts) -> None:
    """TensorRT dereferences the address of a tensor on the CPU while a run is queued."""
    for spec in (*facts.inputs, *facts.outputs):
        if engine.get_tensor_location(spec.name) == trt.TensorLocation.HOST:
            raise DeviceError(
                f"the plan wants {spec.name!r} in the memory of the CPU, because it takes sizes "
                "from its content; expected every tensor on the GPU: rebuild from a graph whose "
                "sizes follow from the shapes of its inputs"
            )
        if spec.dtype in _FOREIGN_TO_NUMPY:
            raise DeviceError(
                f"the plan has the tensor {spec}, a type that numpy has not; rebuild from a graph "
                "that casts it to float16 or float32"
            )
