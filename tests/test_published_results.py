"""The files published in benchmarks/results are what an engine would look up, entry by entry."""

from helpers import ROOT

from bo_tune.core.gpus import stand_in_for
from bo_tune.engines.check import check_folder
from bo_tune.engines.folder import read_folder, read_provenance
from bo_tune.engines.models.serving import ModelStudy
from bo_tune.engines.registry import address_of
from bo_tune.engines.vllm.table_format import missing_lookups
from bo_tune.formats.study_file import load_study_file
from bo_tune.kernels.registry import kernel_spec

RESULTS = ROOT / "benchmarks" / "results"
TUNED = RESULTS / "llama-3.1-8b-96.h100"
STUDY = ROOT / "studies" / "llama-3.1-8b-96.toml"


def test_llama_on_h100_key_by_key() -> None:
    tables = read_folder(TUNED)
    expected: dict[str, set[tuple[str, ...]]] = {name: set() for name in tables}
    for problem in load_study_file(STUDY).problems():
        spec = kernel_spec(problem.kernel)
        name, keys = address_of(problem, stand_in_for("NVIDIA H100 80GB HBM3"))
        expected[name].add(keys)
        config = tables[name].configs[keys]
        assert config in spec.search_space or config == spec.default_config(problem)
        origin = read_provenance(TUNED / name)[keys]
        assert origin.problem == problem
        assert dict(origin.config) == config
        assert origin.default_time_us is not None
        assert origin.time_us <= origin.default_time_us
    assert {name: set(table.configs) for name, table in tables.items()} == expected
    assert not [lookup for table in tables.values() for lookup in missing_lookups(table.entries, (1, 2, 3))]


def test_qwen_3_on_h200_has_every_lookup_of_the_engine_that_was_timed() -> None:
    model = ModelStudy.of(
        str(ROOT / "studies" / "models" / "qwen3-30b-a3b"),
        tensor_parallel=1, ranks=[16], max_loras=[4], ms=[1], max_sequences=256,
    )  # fmt: skip
    report = check_folder(RESULTS / "qwen3-30b-a3b.h200", model, max_batched_tokens=2048)
    assert not report.faults
    assert report.count("exact") == 54
