"""The command line: options in, results printed; every command is a plain function of the package."""

from __future__ import annotations

from debiexport.cli.main import main

__all__ = ["main"]
