"""How near the best in place the configs come that are chosen, and those that are the fastest alone.

``python benchmarks/in_place.py --model DIR --m 1,16,64 --out FILE.json`` tunes a model's linears on a GPU. Of each
problem it then times the 26 fastest configs alone and 26 others, twice each, in the layer that they serve: base
product, shrink and expand over several copies in one CUDA graph. It tells the loss of the config that was chosen, of
the one that is the fastest alone, and of the default, over the best of all: as a share of the time that the adapters
add to the layer. ``--dual-stream`` is an engine of two streams.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bo_tune.core.conditions import Conditions
from bo_tune.core.outcome import estimate_us
from bo_tune.core.problem import lora
from bo_tune.core.space import ConfigKey, config_key
from bo_tune.core.surroundings import Linear
from bo_tune.engines.models.serving import ModelStudy
from bo_tune.formats.study_file import StudyFile
from bo_tune.measure.devices import gpu_devices
from bo_tune.measure.source import VLLM
from bo_tune.session.session import Session, SessionSettings, Tuned
from bo_tune.session.workers.measuring import at_once, jobs_on
from bo_tune.store.storage import StudyStore, silence_optuna
from bo_tune.tuning.in_place import surroundings_in

FASTEST, OTHERS, FURTHEST = 26, 26, 2.2
ROUNDS = 12


def candidates(tuned: Tuned) -> dict[ConfigKey, float]:
    """Return configs of a study with their times alone, in us: the fastest, and others up to some times slower."""
    times = {config_key(trial.params): trial.value for trial in tuned.trials if trial.value is not None}
    ordered = sorted(times, key=times.__getitem__)
    rest = [key for key in ordered[FASTEST:] if times[key] < FURTHEST * times[ordered[0]]]
    chosen = ordered[:FASTEST] + rest[:: max(1, len(rest) // OTHERS)][:OTHERS]
    return {key: times[key] for key in chosen}


def looked_at(tuned: Tuned) -> dict[str, Any] | None:
    """Time a study's configs in its layer, and tell what was chosen from the best."""
    job, result = tuned.job, tuned.result
    if not isinstance(job.layer, Linear) or result is None or result.in_place is None:
        return None
    alone = candidates(tuned)
    chosen, default = config_key(result.config), config_key(tuned.default)
    fastest = min(((dict(config), time_us) for config, time_us in result.finalists), key=lambda one: one[1])[0]
    keys = list(dict.fromkeys([*alone, chosen, config_key(fastest), *([default] if result.default_time_us else [])]))
    around = surroundings_in(job.layer, lora(job.problem), job.device)
    passes: list[Mapping[ConfigKey, float]] = []
    bare: list[float] = []
    for _ in range(2):
        timed = job.device.remeasure_in_place((job.problem,), [(dict(key),) for key in keys], ROUNDS, around)
        times = {key: estimate_us(runs) for key, runs in zip(keys, timed.runtimes_us, strict=True) if runs}
        passes.append(times)
        bare.append(estimate_us(timed.bare_us))
    both = {key: (passes[0][key] + passes[1][key]) / 2 for key in passes[0] if key in passes[1]}
    without = sum(bare) / 2
    best = min(both.values())

    def loss(key: ConfigKey) -> float | None:
        return 100 * (both[key] - best) / (best - without) if key in both else None

    known = [key for key in alone if key in both]
    ranks = [np.argsort(np.argsort([times[key] for key in known])) for times in (alone, both)]
    return {
        "problem": str(job.problem),
        "linear": job.layer.to_json(),
        "bare_us": without,
        "best_us": best - without,
        "chosen_percent": loss(chosen),
        "fastest_alone_percent": loss(config_key(fastest)),
        "default_percent": loss(default),
        "noise_us": float(np.mean([abs(passes[0][key] - passes[1][key]) for key in both])),
        "rank_correlation": float(np.corrcoef(np.array(ranks))[0, 1]) if len(known) > 2 else None,
        "configs": [
            {"config": dict(key), "alone_us": alone.get(key), "in_place_us": both[key] - without} for key in both
        ],
    }


def main() -> None:
    """Tune, time and tell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", required=True)
    parser.add_argument("--m", default="1,16,64")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--max-loras", type=int, default=4)
    parser.add_argument("--budget", type=int, default=80)
    parser.add_argument("--dual-stream", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    silence_optuna()
    model = ModelStudy.of(
        options.model, tensor_parallel=1, ranks=[options.rank], max_loras=[options.max_loras],
        ms=[int(m) for m in options.m.split(",")], dual_stream=options.dual_stream,
    )  # fmt: skip
    study = StudyFile.from_model(model)
    conditions = Conditions(dual_stream=options.dual_stream)
    with gpu_devices([0], source=VLLM, conditions=conditions) as devices:
        jobs = [job for job in jobs_on(study.problems(), devices, study.layers()) if isinstance(job.layer, Linear)]
        settings = at_once(SessionSettings(budget=options.budget), devices, len(jobs))
        tuned = Session(StudyStore("memory"), settings).run(jobs)
        rows = [row for one in tuned if (row := looked_at(one)) is not None]
        figures = {"gpu": devices[0].gpu.name, "provenance": dict(devices[0].provenance)}
    options.out.write_text(json.dumps({**figures, "rows": rows}, indent=1))
    for row in rows:
        told = (row["bare_us"], row["best_us"], row["chosen_percent"], row["fastest_alone_percent"])
        print(f"{row['problem']:60s} bare %7.2f best %6.2f us, chosen %5.2f %%, alone %5.2f %%" % told, end="")
        print(f", noise {row['noise_us']:.3f} us, rank correlation {row['rank_correlation'] or 0:.2f}")
    print(summary(rows))


def summary(rows: Sequence[Mapping[str, Any]]) -> str:
    """Say how many of the chosen configs are within 1 % of the best."""
    chosen = [row["chosen_percent"] for row in rows if row["chosen_percent"] is not None]
    alone = [row["fastest_alone_percent"] for row in rows if row["fastest_alone_percent"] is not None]
    within = sum(loss <= 1.0 for loss in chosen)
    return (
        f"{within} of {len(chosen)} chosen within 1 % of the best in place, mean {np.mean(chosen):.2f} %, worst "
        f"{max(chosen):.2f} %; of the fastest alone {sum(loss <= 1.0 for loss in alone)}, mean {np.mean(alone):.2f} %, "
        f"worst {max(alone):.2f} %"
    )


if __name__ == "__main__":
    main()
