"""Where a benchmark runs besides here: devices by name, the way to them, and the run from preflight to clean-up."""
