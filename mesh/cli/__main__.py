"""`python -m mesh.cli` is `mesh`: it is how the supervisor starts the parts, whatever the PATH."""

import sys

from mesh.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
