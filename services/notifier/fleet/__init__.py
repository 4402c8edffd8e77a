"""The workers that are running, and the kinds of jobs with their rates and durations."""
