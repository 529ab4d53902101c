"""What a config that was chosen in one place loses in another: by how many adapters steps use, and by base weights.

``python benchmarks/places.py --model DIR --m 16,64,256 --out FILE.json`` tunes a model's linears on a GPU, once for
each place: steps of all adapters, of one, of two, of a mix of them; base weights of 16, 8 and 4 bits. The trials are
those of the first, alone; finalists race in each place anew. Every config that was chosen anywhere is then timed in all
places. For each place it tells how much of the adapters' time the configs of the others lose there, in all problems
together and at worst.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bo_tune.core.outcome import estimate_us
from bo_tune.core.problem import LoraProblem, lora
from bo_tune.core.space import ConfigKey, config_key
from bo_tune.core.surroundings import Linear, Weights
from bo_tune.engines.models.serving import ModelStudy
from bo_tune.formats.study_file import StudyFile
from bo_tune.measure.devices import Job, gpu_devices
from bo_tune.measure.source import VLLM
from bo_tune.session.session import Session, SessionSettings
from bo_tune.session.workers.measuring import at_once, jobs_on
from bo_tune.store.storage import StudyStore, silence_optuna
from bo_tune.tuning.in_place import surroundings_in
from bo_tune.tuning.settings import Finalists

ROUNDS = 24
DEFAULT = "default"


@dataclass(frozen=True)
class Place:
    """How steps use adapters, and how base weights are stored."""

    active: tuple[int, ...]
    weights: Weights = Weights.BITS_16

    def of(self, linear: Linear) -> Linear:
        """Return a layer as it is here."""
        return replace(linear, weights=self.weights)


def places(max_loras: int) -> dict[str, Place]:
    """Return the places by name, the usual one first."""
    every = (max_loras,)
    return {
        "all adapters": Place(every),
        "1 adapter": Place((1,)),
        "2 adapters": Place((2,)),
        "mix": Place((1, 2, max_loras)),
        "fp8": Place(every, Weights.FP8),
        "int4": Place(every, Weights.INT4),
    }


Chosen = dict[LoraProblem, dict[str, ConfigKey]]
"""By problem and place, the config that was chosen there."""


def chosen_in(where: Mapping[str, Place], jobs: Sequence[Job], settings: SessionSettings) -> Chosen:
    """Tune in each place."""
    found: Chosen = {lora(job.problem): {} for job in jobs}
    store = StudyStore("memory")
    for name, place in where.items():
        there = [replace(job, layer=place.of(job.layer)) for job in jobs if isinstance(job.layer, Linear)]
        session = Session(store, replace(settings, finalists=Finalists(active=place.active)))
        for tuned in session.run(there):
            if tuned.result is not None and tuned.result.in_place is not None:
                found[lora(tuned.job.problem)][name] = config_key(tuned.result.config)
                found[lora(tuned.job.problem)][DEFAULT] = config_key(tuned.default)
    return {problem: by_place for problem, by_place in found.items() if len(by_place) == len(where) + 1}


def timed(where: Mapping[str, Place], job: Job, chosen: Mapping[str, ConfigKey]) -> dict[str, dict[str, float]]:
    """Return by place, and by the place where a config was chosen, what adapters add to the layer, in us."""
    assert isinstance(job.layer, Linear)
    keys, problem = list(dict.fromkeys(chosen.values())), lora(job.problem)
    found = {}
    for name, place in where.items():
        around = surroundings_in(place.of(job.layer), problem, job.device, place.active)
        answer = job.device.remeasure_in_place((problem,), [(dict(key),) for key in keys], ROUNDS, around)
        bare = estimate_us(answer.bare_us)
        added = {key: estimate_us(runs) - bare for key, runs in zip(keys, answer.runtimes_us, strict=True) if runs}
        found[name] = {of: added[key] for of, key in chosen.items() if key in added}
    return found


def summary(rows: Sequence[Mapping[str, Any]], where: Sequence[str]) -> list[str]:
    """Return for each place what the configs of the others, and the defaults, lose there."""
    lines = [f"{'chosen for':14s}" + "".join(f"{name:>22s}" for name in where)]
    for of in (*where, DEFAULT):
        cells = []
        for name in where:
            whole = [row["added_us"][name] for row in rows if of in row["added_us"][name]]
            losses = [100 * (one[of] / one[name] - 1) for one in whole]
            total = 100 * (sum(one[of] for one in whole) / sum(one[name] for one in whole) - 1)
            cells.append(f"{total:+.1f} %, worst {max(losses):+.0f} %")
        lines.append(f"{of:14s}" + "".join(f"{cell:>22s}" for cell in cells))
    return lines


def main() -> None:
    """Tune, time and tell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", required=True)
    parser.add_argument("--m", default="16,64,256")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--max-loras", type=int, default=4)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    silence_optuna()
    model = ModelStudy.of(
        options.model, tensor_parallel=1, ranks=[options.rank], max_loras=[options.max_loras],
        ms=[int(m) for m in options.m.split(",")],
    )  # fmt: skip
    study, where = StudyFile.from_model(model), places(options.max_loras)
    with gpu_devices([0], source=VLLM) as devices:
        jobs = [job for job in jobs_on(study.problems(), devices, study.layers()) if isinstance(job.layer, Linear)]
        chosen = chosen_in(where, jobs, at_once(SessionSettings(), devices, len(jobs)))
        rows = [
            {
                "problem": str(job.problem),
                "linear": job.layer.to_json() if job.layer else None,
                "chosen": {place: dict(key) for place, key in chosen[lora(job.problem)].items()},
                "added_us": timed(where, job, chosen[lora(job.problem)]),
            }
            for job in jobs
            if lora(job.problem) in chosen
        ]
        figures = {"gpu": devices[0].gpu.name, "provenance": dict(devices[0].provenance)}
    options.out.write_text(json.dumps({**figures, "places": list(where), "rows": rows}, indent=1))
    print("\n".join(summary(rows, list(where))))


if __name__ == "__main__":
    main()
