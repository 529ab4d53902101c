"""What an engine would make of a folder of tuned files, whoever wrote them.

A *fault* is what stops the engine, spoils its output or slows it down in silence; a lookup that only takes its config
from a neighbouring m is as it should be, since no file holds every m.

``walk`` goes through every lookup of an engine start and ``agreeing`` compares what those of one step found;
``lora_files`` and ``other_files`` say what is wrong with the files whatever is asked of them; ``findings``
holds what came of it.
"""

from bo_tune.engines.check.findings import Fault, Lookup, Report
from bo_tune.engines.check.walk import check_folder, check_problems

__all__ = ["Fault", "Lookup", "Report", "check_folder", "check_problems"]
