"""``bo-tune check`` through the real command line."""

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import H100, ROOT, SHRINK_TABLE, Cli, Ran, run_command

from bo_tune.engines.models.serving import ModelStudy
from bo_tune.engines.vllm.file_names import table_file_name
from bo_tune.kernels.registry import kernel_spec

LLAMA = ROOT / "studies" / "models" / "llama-3.1-8b"
OPTIONS = ("--model", LLAMA, "--tp", 1, "--max-loras", 4, "--rank", 16, "--gpu", H100.name)


@pytest.fixture
def tuned(tmp_path: Path) -> Path:
    """A folder that holds every entry of a Llama-3.1-8B."""
    model = ModelStudy.of(str(LLAMA), tensor_parallel=1, ranks=[16], max_loras=[4], ms=[1, 64, 1024, 8192])
    files: dict[str, dict[str, Any]] = {}
    for problem in model.problems_by_layer():
        spec = kernel_spec(problem.kernel)
        level = files.setdefault(table_file_name(H100.file_name, spec.file_stem(problem)), {})
        *above, last = spec.table_key(problem)
        for key in above:
            level = level.setdefault(key, {})
        level[last] = spec.default_config(problem)
    folder = tmp_path / "tuned"
    folder.mkdir()
    for name, document in files.items():
        (folder / name).write_text(json.dumps(document))
    return folder


def spoil(folder: Path) -> None:
    path = folder / SHRINK_TABLE
    document = json.loads(path.read_text())
    del document["5"]["2"]
    path.write_text(json.dumps(document))


def test_a_good_folder(cli: Cli, tuned: Path, tmp_path: Path) -> None:
    report = tmp_path / "new" / "check.json"
    ran = cli("check", tuned, *OPTIONS, "--json", report)
    assert (ran.code, ran.err) == (0, "")
    assert "0 fail or take another lookup's entry; 0 faults" in ran.out
    document = json.loads(report.read_text())
    assert document["faults"] == []
    assert document["counts"]["fault"] == 0
    assert sum(document["counts"].values()) == len(document["lookups"])
    head = [item for item in document["lookups"] if item["layers"] == ["lm_head"] and item["asked"]["m"] == 1024]
    assert [(item["asked"]["n"], item["status"]) for item in head] == [(128256, "exact")]


@pytest.mark.slow
def test_a_fault_is_exit_code_1_and_a_line(tuned: Path, tmp_path: Path) -> None:
    spoil(tuned)
    report = tmp_path / "check.json"
    ran = run_command("check", tuned, *OPTIONS, "--json", report, cwd=tmp_path)
    assert (ran.code, ran.err) == (1, "")
    assert "no entry for num_slices 2: a KeyError in the engine" in ran.out
    assert f"{SHRINK_TABLE}: lookups" in ran.out
    (fault,) = json.loads(report.read_text())["faults"]
    assert (fault["file"], fault["place"], fault["layers"]) == (SHRINK_TABLE, "5/2", ["gate_up_proj"])


def test_a_quiet_check_tells_faults_and_nothing_else(cli: Cli, tuned: Path) -> None:
    assert cli("check", tuned, *OPTIONS, "--quiet") == Ran(0, "", "")
    spoil(tuned)
    (tuned / SHRINK_TABLE.replace("SHRINK", "EXPAND_TRUE")).write_text("[]")
    ran = cli("check", tuned, *OPTIONS, "--quiet")
    assert (ran.code, ran.out) == (1, "")
    assert f"{SHRINK_TABLE}: 5/2: no entry for num_slices 2: a KeyError in the engine" in ran.err
    assert "EXPAND_TRUE.json: expected an object with max_loras as keys" in ran.err


def test_the_engines_settings_decide(cli: Cli, tuned: Path, tmp_path: Path) -> None:
    assert cli("check", tuned, *OPTIONS, "--m", "7,8", "--max-num-seqs", 64).code == 0
    assert cli("check", tuned, *OPTIONS, "--max-num-batched-tokens", 2048, "--kernel", "x").code == 2
    spoil(tuned)
    ran = cli("check", tuned, *OPTIONS, "--target-modules", "o_proj,lm_head")
    assert ran.code == 0
    told = " ".join(ran.out.split())
    assert "note: start the engine with --lora-target-modules o_proj lm_head, or it stops with a KeyError" in told
    assert "looks up …_SHRINK.json for num_slices 2 and 3" in told
    assert cli("check", tuned, *OPTIONS, "--fully-sharded").code == 1
    adapter = tmp_path / "adapter_config.json"
    adapter.write_text(json.dumps({"r": 9, "lora_alpha": 16, "target_modules": ["down_proj"]}))
    model = ("--model", LLAMA, "--max-loras", 4)
    assert cli("check", tuned, *model, "--adapter", adapter, "--gpu", H100.name).code == 0
    from_the_files = cli("check", tuned, *model, "--adapter", adapter)
    assert from_the_files.code == 0
    assert "shared memory was not checked" not in from_the_files.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", *OPTIONS], "nowhere: No such file"),
        ([".", *OPTIONS[:-2]], "name the GPU with --gpu"),
        ([".", "--max-loras", 4, "--rank", 16], "--model: expected a config.json"),
        ([".", "--model", LLAMA, "--rank", 16], "--max-loras is needed"),
        ([".", "--model", LLAMA, "--max-loras", 4], "--max-lora-rank is needed"),
        ([".", *OPTIONS, "--rank", "x"], "--max-lora-rank: expected integers"),
        ([".", *OPTIONS, "--m", "auto"], "--m: expected integers"),
        ([".", *OPTIONS, "--tp", 3], "num_attention_heads: expected a multiple"),
        ([".", *OPTIONS, "--target-modules", "c_attn"], "no layer that takes adapters is called 'c_attn'"),
        ([".", *OPTIONS, "--adapter", "nowhere"], "nowhere: No such file"),
        ([".", *OPTIONS, "--tp", 32, "--fully-sharded"], "multiple of the tensor-parallel size 32, got 16"),
        ([".", *OPTIONS, "--json", "/proc/x"], "/proc/x: cannot be written"),
    ],
)
def test_bad_input_is_one_line(cli: Cli, arguments: list[object], message: str) -> None:
    assert message in cli("check", *arguments).error


def test_all_adapters_and_both_streams(cli: Cli, tuned: Path, tmp_path: Path) -> None:
    adapters: list[object] = []
    for name, rank in (("down_proj", 16), ("o_proj", 4)):
        (tmp_path / name).mkdir()
        config = {"r": rank, "lora_alpha": 16, "target_modules": [name]}
        (tmp_path / name / "adapter_config.json").write_text(json.dumps(config))
        adapters += ["--adapter", tmp_path / name]
    model = ("--model", LLAMA, "--max-loras", 4, "--gpu", H100.name, "--m", 64)
    ran = cli("check", tuned, *model, *adapters, "--json", "-")
    assert {layer for lookup in json.loads(ran.out)["lookups"] for layer in lookup["layers"]} == {"o_proj", "down_proj"}
    both = cli("check", tuned, *model, *adapters, "--dual-stream", "--json", "-")
    assert both.code == 1
    (fault,) = json.loads(both.out)["faults"]
    assert fault["file"].endswith("_EXPAND_FALSE.json")
    assert fault["reason"].startswith("the file does not exist")


def test_a_study_file_names_the_model_and_problems(cli: Cli, tuned: Path, tmp_path: Path) -> None:
    study = tmp_path / "study.toml"
    study.write_text(f'[model]\nconfig = "{LLAMA}"\nm = 16\n')
    ran = cli("check", tuned, study, "--gpu", H100.name, "--json", "-")
    assert ran.code == 0
    assert {16, 24} <= {lookup["asked"]["m"] for lookup in json.loads(ran.out)["lookups"]}
    assert cli("check", tuned, study, "--gpu", H100.name, "--max-loras", 8).code == 1
    problem = '[[problem]]\nkernel = "lora_shrink"\nmax_loras = 4\nnum_slices = 1\nm = [16, 64]\nk = 4096\nn = '
    study.write_text(f'[model]\nconfig = "{LLAMA}"\nm = 16\n{problem}8\n')
    (fault,) = json.loads(cli("check", tuned, study, "--gpu", H100.name, "--json", "-").out)["faults"]
    assert fault["reason"] == "no entry for n 8, so n 16 is used"
    study.write_text(problem + "16\n")
    ran = cli("check", tuned, study, "--gpu", H100.name, "--json", "-")
    assert [lookup["status"] for lookup in json.loads(ran.out)["lookups"]] == ["nearest m", "exact"]


def test_experts_without_files_are_faults(cli: Cli, tuned: Path, tmp_path: Path) -> None:
    options = ("--model", ROOT / "studies" / "models" / "mixtral-8x7b", "--max-loras", 4, "--rank", 16)
    found = tmp_path / "check.json"
    ran = cli("check", tuned, *options, "--target-modules", "o_proj,experts", "--gpu", H100.name, "--json", found)
    assert ran.code == 1
    faults = json.loads(found.read_text())["faults"]
    assert len(faults) == 4
    assert all("with this folder the experts run block_m 64 at every m" in fault["reason"] for fault in faults)
