"""`python -m debiexport`"""

from __future__ import annotations

from debiexport.cli import main

if __name__ == "__main__":
    main()
