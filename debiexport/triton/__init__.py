"""NVIDIA Triton: model repositories and the Kubernetes manifests that serve them."""

from __future__ import annotations
