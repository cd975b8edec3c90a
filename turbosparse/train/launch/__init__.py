"""How training processes are started, watched and ended."""
