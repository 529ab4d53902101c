"""The names in the format that the plugin writes and ``reading`` reads: JSON lines, one file per process.

The first line is the header. Each further line is a kind of layer, a lookup or the size of a step. It ends with its
count, a number of fixed width that is overwritten in place.
"""

FORMAT = "bo_tune lookups"
VERSION = 1

VARIABLE = "BO_TUNE_LOOKUPS"
"""Environment variable with the file name from which the engine's processes derive theirs."""

HEADER, FORMAT_VERSION, ENGINE, ENGINE_VERSION, GPU, PROCESS, STARTED = (
    "format", "version", "engine", "engine_version", "gpu", "process", "started",
)  # fmt: skip
DUAL_STREAM, BATCH_INVARIANT = "dual_stream", "batch_invariant"

LOOKUP, ARGUMENTS, LAUNCH, COUNT = "lookup", "arguments", "launch", "count"
LORA, UNTUNED_LORA, EXPERTS, MAMBA = "lora", "untuned_lora", "experts", "mamba"
"""Kinds of lookups. ``UNTUNED_LORA`` is a lookup for the experts' adapters in an engine without a folder of tuned
files. Such an engine asks for the base experts' config instead."""

LAYER, NAME, KIND, WEIGHTS = "layer", "name", "class", "weights"
"""A kind of layer that takes adapters: its name with ``*`` for numbers, vLLM's class, and the element type of the
weights below. The count is that of such layers."""

STEP, TOKENS, PADDED, SEQUENCES, ADAPTERS = "step", "tokens", "padded", "sequences", "adapters"

DTYPE, SHAPES = "dtype", "shapes"
"""Keys of a launch or a layer: the element type of the adapters' weights, and the shapes of its tensors by name."""

LEFT_OUT = "left_out"
"""Number of lookups and sizes of steps for which a full file has no line."""

COUNT_WIDTH = 12
