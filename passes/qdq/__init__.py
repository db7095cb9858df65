"""Quantise/dequantise insertion: parameters, policy, insertion and the lowering for CPUs."""
