"""What is installed here, what can be done with it, and the commands that mend the rest.

Nothing heavy is imported: versions come from the packages' metadata, and a package counts as broken when its metadata
is there but its module is not. A package whose files are there but fail while they are imported is not found out.

diagnosis     everything together, for programs and for people
packages      what is installed, and whether its files are there
abilities     what can be done with it
conflicts     what does not go together
machine       Python, the system, how many CPUs a process gets
measuring     how well `bench` can measure here
wrapping      long lines for people

To report on one more target, add its line to `abilities.ABILITIES`, and its packages to `packages.PACKAGES`.
"""

from __future__ import annotations

from debiexport.doctor.abilities import Ability
from debiexport.doctor.conflicts import Conflict, Remedy
from debiexport.doctor.diagnosis import Diagnosis, diagnose
from debiexport.doctor.machine import Machine
from debiexport.doctor.measuring import Measuring
from debiexport.doctor.packages import Package

__all__ = ["Ability", "Conflict", "Diagnosis", "Machine", "Measuring", "Package", "Remedy", "diagnose"]
