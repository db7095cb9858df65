"""How low a hidden key is put."""

from __future__ import annotations

import onnx_ir as ir

MASKED_BELOW = -1e4
"""The weakest fill in use (original BERT); exp(-1e4) is 0 in float32."""

_HEADROOM = 0.9


def mask_fill(dtype: ir.DataType) -> float:
    """What a hidden key adds to a score: far below every score, and not the lowest number.

    ONNX Runtime 1.31 answers 0 for a row of scores that are all the lowest number, where eager
    attention spreads evenly; and the lowest float16 plus a score of -16 already is -infinity.
    """
    return _HEADROOM * float(dtype.min)
