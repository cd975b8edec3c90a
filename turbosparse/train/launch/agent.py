"""torchrun, bound to the life of the process that started it."""

import signal
import sys

from turbosparse.processes import die_with_parent


def main() -> None:
    """Runs torchrun on this program's arguments."""
    # SIGTERM: torchrun then ends its ranks before itself.
    die_with_parent(signal.SIGTERM)
    from torch.distributed.run import main as torchrun  # noqa: PLC0415

    torchrun(sys.argv[1:])


if __name__ == "__main__":
    main()
