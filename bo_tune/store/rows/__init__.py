"""Studies and trials as rows, written and read without Optuna's objects."""
