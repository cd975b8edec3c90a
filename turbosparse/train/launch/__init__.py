"""How training processes are started, watched and ended."""

from turbosparse.train.launch.outcome import OnEvent, OnLog
from turbosparse.train.launch.program import Launcher, Program, open_launcher

__all__ = ["Launcher", "OnEvent", "OnLog", "Program", "open_launcher"]
