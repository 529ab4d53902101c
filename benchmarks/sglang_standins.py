"""Take what bo_tune reads of SGLang out of its wheel: its chunked LoRA kernels, and the configs that it ships for them.

    pip download --no-deps sglang==0.5.23 -d WHEELS
    python benchmarks/sglang_standins.py WHEELS/sglang-0.5.23-*.whl .sglang
    PYTHONPATH=.sglang bo-tune tune --engine sglang ...

Copies some pure-Python modules, the shipped configs and what says the version into a folder that git ignores. Nothing
of them is imported: their text alone is run, so that nothing has to stand in for what they import. With a full
installation of SGLang none of this is needed. Used by the tests too, and on GPU hosts that have no SGLang.
"""

import argparse
import sys
import zipfile
from pathlib import Path

FOLDER = "sglang/kernels/ops/lora/dense"
COPIED = tuple(f"{FOLDER}/{name}.py" for name in ("chunked_sgmv_shrink", "chunked_sgmv_expand", "lora_tuning_config"))
SHIPPED = f"{FOLDER}/csgmv_configs/"


def build(wheel: Path, folder: Path) -> None:
    """Write the modules.

    Args:
        wheel: a published wheel of SGLang, whose file name tells its version.
        folder: where the package ``sglang`` is written; made if it is not there.

    Raises:
        KeyError: the wheel lacks one of the modules.
    """
    said = f"sglang-{wheel.name.split('-')[1]}.dist-info/METADATA"
    with zipfile.ZipFile(wheel) as archive:
        shipped = [name for name in archive.namelist() if name.startswith(SHIPPED) and name.endswith(".json")]
        copied = {name: archive.read(name) for name in (*COPIED, *shipped)}
        copied[said] = archive.read(said).partition(b"\n\n")[0] + b"\n"
    for name, content in {"sglang/__init__.py": b"", **copied}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path, help="wheel of SGLang")
    parser.add_argument("folder", type=Path, help="folder to write the package into")
    options = parser.parse_args()
    try:
        build(options.wheel, options.folder)
    except (OSError, zipfile.BadZipFile, KeyError, IndexError) as error:
        sys.exit(f"{options.wheel}: {error}")


if __name__ == "__main__":
    main()
