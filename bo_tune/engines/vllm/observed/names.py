"""The names of the format that the plugin writes and ``reading`` reads: JSON lines, one file for each process.

The first line is the header. Each further line is a kind of layer, a lookup or a size of a step, and ends with how
often it came: a number of fixed width, which is overwritten in place.
"""

FORMAT = "bo_tune lookups"
VERSION = 1

VARIABLE = "BO_TUNE_LOOKUPS"
"""Of the environment: the file that the engine's processes name theirs after."""

HEADER, FORMAT_VERSION, ENGINE, ENGINE_VERSION, GPU, PROCESS, STARTED = (
    "format", "version", "engine", "engine_version", "gpu", "process", "started",
)  # fmt: skip
DUAL_STREAM, BATCH_INVARIANT = "dual_stream", "batch_invariant"

LOOKUP, ARGUMENTS, LAUNCH, COUNT = "lookup", "arguments", "launch", "count"
LORA, UNTUNED_LORA, EXPERTS, MAMBA = "lora", "untuned_lora", "experts", "mamba"
"""Kinds of lookups. ``UNTUNED_LORA``: of the experts' adapters, in an engine without a folder of tuned files. It asks
for the base experts' config instead."""

LAYER, NAME, KIND, WEIGHTS = "layer", "name", "class", "weights"
"""A kind of layer that takes adapters: its name, ``*`` for numbers in it, vLLM's class, and the element type of the
weights below. Counted are such layers."""

STEP, TOKENS, PADDED, SEQUENCES, ADAPTERS = "step", "tokens", "padded", "sequences", "adapters"

DTYPE, SHAPES = "dtype", "shapes"
"""Of a launch or a layer: the element type of the adapters' weights, and the shapes of its tensors by name."""

LEFT_OUT = "left_out"
"""How many lookups and sizes of steps came that the file has no line for, because it is full."""

COUNT_WIDTH = 12
