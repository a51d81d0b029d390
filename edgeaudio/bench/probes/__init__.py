"""Reads what a board is and what state it is in, from files and commands. Nothing here raises: unknown is None."""

from edgeaudio.bench.probes.monitor import BoardWatch
from edgeaudio.bench.probes.probe import probe_board, sample_board
from edgeaudio.bench.probes.system import Completed, Runner, run_command

__all__ = ["BoardWatch", "Completed", "Runner", "probe_board", "run_command", "sample_board"]
