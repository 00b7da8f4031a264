"""ONNX -> TensorRT: engines for NVIDIA GPUs, and a gate that builds without one."""

from __future__ import annotations
