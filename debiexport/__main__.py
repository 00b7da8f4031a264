"""`python -m debiexport`, and the command `debiexport`"""

from __future__ import annotations

from debiexport.interruption import Interruptible


def main() -> None:
    """Run the command line and exit with its code."""
    with Interruptible():  # first of all, as the imports take their time
        from debiexport.cli.main import main as run_and_exit

        run_and_exit()


if __name__ == "__main__":
    main()
