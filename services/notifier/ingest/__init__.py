"""Where workers' reports come in."""
