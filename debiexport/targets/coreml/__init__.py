"""Static network -> Core ML package (an ML Program) with stable names."""

from __future__ import annotations
