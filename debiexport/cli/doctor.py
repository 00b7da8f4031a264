"""`debiexport doctor`"""

from __future__ import annotations

from debiexport.cli.options import Debug, Json, Quiet
from debiexport.cli.output import OUTPUT


def command(as_json: Json = False, quiet: Quiet = False, debug: Debug = False) -> None:
    """What is installed here, what can be done with it, and what to install for the rest."""
    OUTPUT.configure(as_json=as_json, quiet=quiet, debug=debug)
    from debiexport.doctor import diagnose

    diagnosis = diagnose()
    OUTPUT.result(diagnosis.report(), diagnosis.to_dict())
