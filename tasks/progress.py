"""Progress where people look: a Prefect progress artifact, the run's log, and a bar in a terminal."""

import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import httpx
from prefect import get_run_logger
from prefect.artifacts import create_link_artifact, create_progress_artifact, update_progress_artifact
from tqdm import tqdm

from turbosparse.progress import Listener, Progress

ARTIFACT_INTERVAL_SECONDS = 3.0
LOG_INTERVAL_SECONDS = 15.0
LINES_PER_WINDOW = 40
WINDOW_SECONDS = 10.0
SECONDS_WITHOUT_SERVER = 30.0
"""How long a server that did not answer is left alone."""
WANDB_RUN = re.compile(r"W&B run (\S+): (https?://\S+)")


@contextmanager
def reporting(stage: str) -> Iterator[Listener]:
    """Gives a listener whose progress shows up in Prefect and, if there is one, in the terminal."""
    reporter = _Reporter(stage)
    try:
        yield Listener(reporter.progress, reporter.log)
    finally:
        reporter.close()


class _Reporter:
    """Passes progress on, no more often than each place can bear."""

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._logger = get_run_logger()
        self._output = LogLines(self._logger.info)
        self._artifact: UUID | None = None
        self._artifact_due = self._log_due = self._server_due = 0.0
        self._bar: Any = None

    def progress(self, progress: Progress) -> None:
        """Shows how far the stage has come."""
        now, is_last = time.monotonic(), progress.completed >= progress.total
        self._show_bar(progress)
        if now >= self._artifact_due or is_last:
            self._artifact_due = now + ARTIFACT_INTERVAL_SECONDS
            self._tell(lambda: self._show_artifact(100.0 * progress.completed / progress.total))
        if now >= self._log_due or is_last:
            self._log_due = now + LOG_INTERVAL_SECONDS
            figures = ", ".join(f"{name} {value:.4g}" for name, value in progress.values.items())
            self._logger.info(
                "%s: %d/%d %s %s", progress.stage, progress.completed, progress.total, progress.unit, figures
            )

    def log(self, line: str) -> None:
        """Passes a training process's line of output on, and links the W&B run that it names."""
        self._output.write(line)
        if found := WANDB_RUN.search(line):
            text, key = f"W&B run {found[1]}", f"{self._stage}-wandb"
            self._tell(lambda: create_link_artifact(link=found[2], link_text=text, key=key))

    def close(self) -> None:
        """Ends the bar and the log."""
        self._output.close()
        if self._bar is not None:
            self._bar.close()

    def _tell(self, show: Callable[[], object]) -> None:
        """Shows something on Prefect's server; where that does not answer, the stage goes on unseen."""
        if time.monotonic() < self._server_due:
            return
        try:
            show()
        except httpx.HTTPError as error:
            self._server_due = time.monotonic() + SECONDS_WITHOUT_SERVER
            self._logger.warning("Prefect's server does not answer (%r): %s goes on", error, self._stage)

    def _show_artifact(self, percent: float) -> None:
        if self._artifact is None:
            artifact = create_progress_artifact(
                progress=percent, key=f"{self._stage}-progress", description=f"Progress of {self._stage}"
            )
            assert isinstance(artifact, UUID)
            self._artifact = artifact
        else:
            update_progress_artifact(self._artifact, progress=percent)

    def _show_bar(self, progress: Progress) -> None:
        if not sys.stderr.isatty():
            return
        if self._bar is None:
            self._bar = tqdm(total=progress.total, desc=progress.stage, unit=f" {progress.unit}")
        self._bar.set_postfix(
            {name: f"{value:.4g}" for name, value in progress.values.items()}, refresh=False
        )
        self._bar.update(progress.completed - self._bar.n)


class LogLines:
    """Lines for a log that a server keeps: each at once, but no more than it can bear."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._window_ends = 0.0
        self._num_written = self._num_left_out = 0

    def write(self, line: str) -> None:
        """Passes a line on, or counts it where too many came within a few seconds."""
        now = time.monotonic()
        if now >= self._window_ends:
            self.close()
            self._window_ends, self._num_written = now + WINDOW_SECONDS, 0
        if self._num_written < LINES_PER_WINDOW:
            self._num_written += 1
            self._write(line)
        else:
            self._num_left_out += 1

    def close(self) -> None:
        """Says how many lines were left out since it was last said."""
        if self._num_left_out:
            self._write(f"… lines left out: {self._num_left_out}")
            self._num_left_out = 0
