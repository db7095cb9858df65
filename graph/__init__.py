"""The values every stage shares: graphs, tensor specs, shape profiles, detached weights.

Only `tensors` is importable on a machine that merely runs bundles; `model` and `weights` need
onnx_ir (extra ``compile``), which is why this file imports nothing.
"""
