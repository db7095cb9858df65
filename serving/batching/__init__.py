"""Requests of many callers in batches that waste little: `TokenBatcher`."""

from .batcher import TokenBatcher
from .metrics import BatcherMetrics, BatchRecord
from .options import BatcherOptions

__all__ = ["BatchRecord", "BatcherMetrics", "BatcherOptions", "TokenBatcher"]
