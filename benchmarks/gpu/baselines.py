"""The same encoder in PyTorch: eager, fused attention, compiled, and as a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .encoder import Encoder
from .part import Findings, Sizes, SkipPartError, relative_error, spread

_BOUNDS = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 6e-2}


def measure(sizes: Sizes) -> Findings:
    """Latency with the feeds on the device already, and the error against float64 on the CPU."""
    try:
        import torch
    except ImportError as error:
        raise SkipPartError(f"torch is not installed here ({error})") from error
    if not sizes.smoke and not torch.cuda.is_available():
        raise SkipPartError(f"torch {torch.__version__} finds no GPU")
    findings = Findings()
    encoder = Encoder.make(sizes)
    with torch.inference_mode():
        wanted = TorchEncoder(torch, encoder, "cpu", torch.float64, fused=False).run(1)
        for dtype in ("float32",) if sizes.smoke else ("float16", "bfloat16", "float32"):
            _measure(torch, encoder, dtype, wanted.numpy(), findings)
        _compiled(torch, encoder, wanted.numpy(), findings)
    return findings


class TorchEncoder:
    """`Encoder` as PyTorch computes it."""

    def __init__(self, torch: Any, encoder: Encoder, device: str, dtype: Any, *, fused: bool):
        self._torch, self.encoder, self._device = torch, encoder, device
        self._fused = fused
        self._weights = {
            name: torch.from_numpy(array).to(device, dtype)
            for name, array in encoder.weights.items()
        }

    def feeds(self, batch: int) -> tuple[Any, Any]:
        """Ids and mask on the device."""
        feeds = self.encoder.feeds(batch).values()
        ids, mask = (self._torch.from_numpy(array).to(self._device) for array in feeds)
        return ids, mask

    def run(self, batch: int) -> Any:
        """Answers to the feeds of a batch."""
        return self(*self.feeds(batch))

    def __call__(self, ids: Any, mask: Any) -> Any:
        """Hidden states [batch, sequence, width]."""
        functional, weights = self._torch.nn.functional, self._weights
        width = self.encoder.sizes.hidden
        seen = (mask > 0)[:, None, None, :]
        hidden = functional.embedding(ids, weights["table"])
        for layer in range(self.encoder.sizes.layers):
            attended = self._attend(hidden, layer, seen) @ weights[f"output{layer}"]
            hidden = functional.layer_norm(attended + hidden, (width,))
            inner = functional.gelu(hidden @ weights[f"up{layer}"])
            hidden = functional.layer_norm(inner @ weights[f"down{layer}"] + hidden, (width,))
        return hidden

    def _attend(self, hidden: Any, layer: int, seen: Any) -> Any:
        batch, sequence, width = hidden.shape
        heads = self.encoder.sizes.heads
        query, key, value = (
            (hidden @ self._weights[f"{part}{layer}"])
            .view(batch, sequence, heads, width // heads)
            .transpose(1, 2)
            for part in ("query", "key", "value")
        )
        if self._fused:
            attend = self._torch.nn.functional.scaled_dot_product_attention
            found = attend(query, key, value, attn_mask=seen)
        else:
            scores = query @ key.transpose(2, 3) * (width // heads) ** -0.5
            found = scores.masked_fill(~seen, float("-inf")).softmax(-1) @ value
        return found.transpose(1, 2).reshape(batch, sequence, width)


def _measure(torch: Any, encoder: Encoder, dtype: str, wanted: Any, findings: Findings) -> None:
    sizes = encoder.sizes
    device = "cpu" if sizes.smoke else "cuda"
    torch.backends.cuda.matmul.allow_tf32 = False
    eager, fused = (
        TorchEncoder(torch, encoder, device, getattr(torch, dtype), fused=is_fused)
        for is_fused in (False, True)
    )
    for name, model in (("eager", eager), ("fused attention", fused)):
        _rows(torch, f"PyTorch {name} {dtype}", model, fused, wanted, findings)
    if not sizes.smoke:
        _graph(torch, fused, encoder, dtype, findings)


def _compiled(torch: Any, encoder: Encoder, wanted: Any, findings: Findings) -> None:
    """Last, and in one type: each batch takes the compiler half a minute, if there is one."""
    sizes = encoder.sizes
    dtype, device = ("float32", "cpu") if sizes.smoke else ("float16", "cuda")
    plain = TorchEncoder(torch, encoder, device, getattr(torch, dtype), fused=True)
    # A smoke run takes the tracing part alone; the rest needs a C++ compiler.
    backend = "eager" if sizes.smoke else "inductor"
    compiled = torch.compile(plain, backend=backend, dynamic=False)
    try:
        compiled(*plain.feeds(1))
    except Exception as error:  # its own errors, Triton's, the C++ compiler's
        words = f"{type(error).__name__}: {error}".splitlines()[0]
        findings.notes.append(f"PyTorch compiled {dtype}: {words:.300}")
        return
    _rows(torch, f"PyTorch compiled {dtype}", compiled, plain, wanted, findings)


def _rows(
    torch: Any, name: str, model: Any, plain: TorchEncoder, wanted: Any, findings: Findings
) -> None:
    encoder, sizes = plain.encoder, plain.encoder.sizes
    error = relative_error(model(*plain.feeds(1)).float().cpu().numpy(), wanted)
    if error > _BOUNDS[name.rpartition(" ")[2]]:
        raise AssertionError(f"{name}: error {error:.1e}")
    for batch in sizes.batches:
        feeds = plain.feeds(batch)
        call = _waited(torch, lambda: model(*feeds), sizes)  # noqa: B023
        _row(findings, name, encoder, batch, call, error)


def _graph(
    torch: Any, model: TorchEncoder, encoder: Encoder, dtype: str, findings: Findings
) -> None:
    for batch in encoder.sizes.batches:
        feeds = model.feeds(batch)
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for _ in range(3):
                model(*feeds)
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            model(*feeds)
        call = _waited(torch, graph.replay, encoder.sizes)
        _row(findings, f"PyTorch CUDA graph {dtype}", encoder, batch, call, None)


def _row(
    findings: Findings,
    name: str,
    encoder: Encoder,
    batch: int,
    call: Callable[[], None],
    error: float | None,
) -> None:
    found = spread(call, encoder.sizes)
    rate = encoder.flops(batch) / found["p50_ms"] / 1e9
    findings.row(name, batch=batch, **found, tflops=rate, relative_error=error)


def _waited(torch: Any, work: Callable[[], Any], sizes: Sizes) -> Callable[[], None]:
    def call() -> None:
        work()
        if not sizes.smoke:
            torch.cuda.synchronize()

    return call
