"""`python -m bench NAME`: one question a benchmark; each says what it measured, against what, and with what spread."""

import sys

from bench.table import BENCHES
from flanneld_py.cli.main import INTERRUPTED
from flanneld_py.errors import FlannelError, UsageError


def run(argv: list[str]) -> int:
    """Run the benchmark that `argv` names, with the words after it."""
    if not argv or argv[0] not in BENCHES:
        lines = [f"  {name:<12} {question}" for name, (question, _) in BENCHES.items()]
        if argv and argv[0] not in ("-h", "--help"):
            raise UsageError(f"there is no benchmark {argv[0]!r}", hint=f"there are {', '.join(BENCHES)}")
        print("\n".join(["usage: flanneld bench NAME [OPTIONS]", *lines]))
        return 0
    return BENCHES[argv[0]][1](argv[1:])


def main() -> int:
    try:
        return run(sys.argv[1:])
    except FlannelError as error:
        print(f"bench: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
