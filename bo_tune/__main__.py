"""``python -m bo_tune``."""

from bo_tune.cli import main

if __name__ == "__main__":
    main()
