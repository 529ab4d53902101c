"""Names of the samplers, for those who check a name without loading what is behind it."""

GRID_GP = "grid-gp"
"""The project's own."""

GRID = "grid"
"""The one that makes a search exhaustive."""

RANDOM = "random"
"""The one that needs nothing."""

SAMPLERS = (GRID_GP, RANDOM, "tpe", "gp", "coordinate", "coordinate-restarts", GRID)
"""All names, as study files and the command line take them."""
