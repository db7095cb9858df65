"""What each node costs: counted from the graph, fitted on the machine, held to measurements.

from pathlib import Path
from fuselage.proof import cost_model

engine = cost_model.open_engine(Path("build/minilm"))
cost = cost_model.count(engine.graph)
cost.flops                                  # 9720*batch*sequence*sequence + ...
cost.flops.at({"batch": 8, "sequence": 128})

shape = cost_model.CostShape.parse("8x128")
model = cost_model.examine(engine, shape, measured=True)
model.verdict.error                         # of the whole call, at a shape it was not fitted on
model.fitted.whole(model.cost, {"batch": 1, "sequence": 512})    # seconds, without running it
cost_model.document(model)                  # JSON, as docs/cost_model.md describes it
"""

from .counting import GraphCost, NodeCost, count
from .document import document
from .examine import CostModel, examine, fit_shapes
from .fitting import Fit, Observation, fit
from .judging import Verdict, judge, judge_all
from .measuring import measure
from .peaks import Peaks, gpu_peaks, measure_peaks
from .polynomial import Polynomial
from .roofline import Bottleneck, bottlenecks, floors
from .shape import CostShape
from .stages import StageCost, run_and_count
from .subject import Costed, open_engine, open_file

__all__ = [
    "Bottleneck",
    "CostModel",
    "CostShape",
    "Costed",
    "Fit",
    "GraphCost",
    "NodeCost",
    "Observation",
    "Peaks",
    "Polynomial",
    "StageCost",
    "Verdict",
    "bottlenecks",
    "count",
    "document",
    "examine",
    "fit",
    "fit_shapes",
    "floors",
    "gpu_peaks",
    "judge",
    "judge_all",
    "measure",
    "measure_peaks",
    "open_engine",
    "open_file",
    "run_and_count",
]
