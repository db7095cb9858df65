"""``python -m fuselage`` and the ``fuselage`` command."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; exits with 0, 1 on an error of fuselage, 2 on wrong usage."""
    try:
        from .compiler.cli import run
        from .compiler.cli.isolation import run_isolated
    except KeyboardInterrupt:  # the imports take a moment; later ones are `run`'s own
        sys.exit(130)
    sys.exit(run_isolated(run, sys.argv[1:]))


if __name__ == "__main__":
    main()
