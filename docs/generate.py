"""Writes ``docs/study-file.md`` from the schema of study files and the kernels' search spaces.

``make docs`` runs it. A test compares the committed page with what this makes.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from bo_tune.core.conclusion import SHARED
from bo_tune.formats.study_schema import TABLES, StudyTables
from bo_tune.kernels.registry import KERNELS

PAGE = Path(__file__).parent / "study-file.md"

HEAD = """\
<!-- Made by docs/generate.py from bo_tune/formats/study_schema.py: edit there, then run `make docs`. -->

# Study files

A study file says which problems to tune, over which ranges, at what cost. It is [TOML](https://toml.io).
`bo-tune tune`, `grid`, `compile`, `problems`, `check` and `step` take one. On the command line, `--model` and the
options of its engine override the file's `[model]`: `tune study.toml --max-loras 8`.

```toml
# studies/my-model.toml
[model]
config = "models/llama-3.1-8b/config.json"
tensor_parallel = 1
ranks = [16]
max_loras = [4]
m = [1, 16, 64, 256, 1024, 8192]

[space.lora_shrink]
block_m = [16, 32, 64]

[budget]
launched_configs = 40
```

Types are exact, and unknown keys are errors. A mistake ends the command with exit code 2 and one line that names the
key. A single value may stand for a list of one. Paths are relative to the study file. `bo-tune studies` copies files to
start from.
"""

EXPLICIT = """
For example, two values of m of one expand problem of Llama-3.1-8B's qkv_proj, whose slices differ in width:

```toml
[[problem]]
kernel = "lora_expand"
max_loras = 4
num_slices = 3
m = [16, 256]
k = 16
n = 4096
slice_sizes = [4096, 1024, 1024]
```
"""

SPACE = """
For example, no more than 64 rows in a block:

```toml
[space.lora_shrink]
block_m = [16, 32, 64]

[space.lora_expand]
block_m = [16, 32, 64]
```

The kernels' own search spaces:
"""

SPACE_END = """
Values of {powers} must be powers of two.
The four kernels of experts must agree on `{shared}`: give them the same values of it.
"""


def page() -> str:
    """Return the page."""
    parts = [
        HEAD,
        "\n## The file\n\n",
        "\n".join(rows(StudyTables, leave=("model", "problem", "budget", "search"))),
        "\n",
    ]
    for name, table in TABLES.items():
        title = f"[[{name}]]" if name == "problem" else f"[{name}]"
        parts += [f"\n## `{title}`\n\n{table.__doc__}\n\n", "\n".join(rows(table)), "\n"]
        if name == "problem":
            parts.append(EXPLICIT)
        if name == "model":
            parts.append("\nIt is complete: a `[[problem]]` that the model poses already is passed over.\n")
    space = " ".join((StudyTables.model_fields["space"].description or "").split())
    parts += [f"\n## `[space.KERNEL]`\n\n{space}\n", SPACE, "\n", "\n".join(spaces()), "\n"]
    powers = set().union(*(spec.power_of_two for spec in KERNELS.values()))
    named = [f"`{name}`" for name in parameters() if name in powers]
    parts.append(SPACE_END.format(shared=SHARED, powers=f"{', '.join(named[:-1])} and {named[-1]}"))
    return "".join(parts)


def rows(table: type[BaseModel], leave: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield the lines of a table's keys: type, default, meaning."""
    schema = table.model_json_schema()
    yield "| key | type | default | meaning |"
    yield "|---|---|---|---|"
    for name, field in table.model_fields.items():
        if name in leave or name == "space":
            continue
        meaning = " ".join((field.description or "").split())
        yield f"| `{name}` | {type_of(schema['properties'][name])} | {default_of(field.default)} | {meaning} |"


def default_of(value: object) -> str:
    """Show a default as it would stand in the file."""
    if value is PydanticUndefined:
        return "needed"
    if value is None or value == []:
        return "–"
    if isinstance(value, list):
        return f"`[{', '.join(map(toml, value))}]`"
    return f"`{toml(value)}`"


def toml(value: object) -> str:
    """Write a value as TOML."""
    return str(value).lower() if isinstance(value, bool) else f'"{value}"' if isinstance(value, str) else str(value)


def type_of(schema: Mapping[str, Any]) -> str:
    """Put the type of a JSON schema into words."""
    if "anyOf" in schema:
        options = [option for option in schema["anyOf"] if option.get("type") != "null"]
        lists = [option for option in options if option.get("type") == "array"]
        if len(options) == 2 and lists:
            return f"{type_of(options[0])}, or a list of them"
        return " or ".join(map(type_of, options))
    if "enum" in schema:
        return " or ".join(f"`{toml(value)}`" for value in schema["enum"])
    match schema["type"]:
        case "boolean":
            return "true or false"
        case "string":
            return "text"
        case "array":
            return f"list of {type_of(schema['items'])}"
        case kind:
            return kind + limits(schema)


def limits(schema: Mapping[str, Any]) -> str:
    """Put the bounds of a number into words."""
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "exclusiveMaximum": "<", "maximum": "≤"}
    found = [f"{sign} {schema[bound]}" for bound, sign in signs.items() if bound in schema]
    return " " + ", ".join(found) if found else ""


def parameters() -> list[str]:
    """Return the parameters of all kernels, each once, in order."""
    return list(dict.fromkeys(name for spec in KERNELS.values() for name in spec.search_space.names))


def spaces() -> Iterator[str]:
    """Yield the lines of the kernels' search spaces."""
    names = parameters()
    yield f"| kernel | configs | {' | '.join(f'`{name}`' for name in names)} |"
    yield "|---" * (len(names) + 2) + "|"
    for kernel, spec in KERNELS.items():
        ranges = spec.search_space.ranges
        values = [", ".join(map(str, ranges.get(name, ()))) or "–" for name in names]
        yield f"| `{kernel}` | {len(spec.search_space):,} | {' | '.join(values)} |"


if __name__ == "__main__":
    PAGE.write_text(page())
