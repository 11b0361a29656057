"""``python -m lmbench`` is ``lmbench``."""

from lmbench.cli import main

if __name__ == "__main__":
    main()
