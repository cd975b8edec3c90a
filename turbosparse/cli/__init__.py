"""The command line: `turbosparse --help`. The outermost layer."""

import os
import sys

import typer

from turbosparse.cli import (
    artifacts,
    bench,
    champion,
    compare,
    models,
    pipeline,
    plan,
    predictors,
    report,
    reproduce,
    serve,
)
from turbosparse.errors import CandidateRejected, TurboSparseError
from turbosparse.masking import hide_secrets

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
for module in (
    pipeline,
    serve,
    plan,
    models,
    compare,
    predictors,
    artifacts,
    champion,
    bench,
    reproduce,
    report,
):
    app.add_typer(module.app)


def main() -> None:
    """Runs the command line: 0 done, 2 bad input (nothing written), 1 anything else."""
    _quieten_libraries()
    hide_secrets()
    try:
        app()
    except TurboSparseError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except CandidateRejected as rejection:
        print(f"rejected: {rejection}", file=sys.stderr)
        sys.exit(1)


def _quieten_libraries() -> None:
    """Sets what libraries read when they are first imported; whatever the user has set stays."""
    settings = {
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        # Threads that wait spin for some 0.3 ms, which is longer than decoding's pauses between two products.
        # With the 2,000 of training (train/launch/agent.py) a small FFN took 394 µs instead of 64 on 2 cores.
        "GOMP_SPINCOUNT": "30000",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    for name, value in settings.items():
        os.environ.setdefault(name, value)
