"""The program of every rank: `python -m turbosparse.train.launch.rank MODULE JOB` runs MODULE.main()."""

import os
import signal
import sys
from importlib import import_module

from turbosparse.processes import die_with_parent

AGENT = "TURBOSPARSE_AGENT"


def main() -> None:
    """Binds this process's life to its agent's, then runs a worker as if it were the program."""
    # Before anything slow is imported. The agent may be gone already, and then init is the parent.
    die_with_parent(signal.SIGKILL, parent=int(os.environ[AGENT]))
    module, *arguments = sys.argv[1:]
    sys.argv = [module, *arguments]
    import_module(module).main()


if __name__ == "__main__":
    main()
