import sys

from flanneld_py.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
