"""The runtime of every service: lifecycle, listeners, errors, authentication, settings, logs and metrics."""
