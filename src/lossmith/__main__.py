"""``lossmith`` and ``python -m lossmith``: the command, or the one line that installs what it needs."""

import importlib.util
import sys


def main() -> int:
    """Run the command line and return the exit status."""
    missing = [package for package in ("cyclopts", "rich") if importlib.util.find_spec(package) is None]
    if missing:
        print(f'lossmith: the command needs {" and ".join(missing)}: pip install "lossmith[cli]"', file=sys.stderr)
        return 2
    from lossmith.cli.app import run

    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
