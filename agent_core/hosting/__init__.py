"""Where it runs: the one place that knows Azure, the environment and the clock."""
