"""What an engine would do with a folder of tuned files, whoever wrote them.

A *fault* stops the engine, spoils its output or slows it down in silence. A lookup that only takes its config from a
neighbouring m is fine, since no file holds every m.

``walk`` goes through every lookup of an engine start, and ``agreeing`` compares the results of one step. ``lora_files``
and ``other_files`` report faults of the files that do not depend on lookups. ``findings`` holds the results.
"""

from bo_tune.engines.check.findings import Fault, Lookup, Report
from bo_tune.engines.check.walk import check_folder, check_problems

__all__ = ["Fault", "Lookup", "Report", "check_folder", "check_problems"]
