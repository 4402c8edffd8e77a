"""What every service shares: lifecycle, listeners, errors, authentication, settings, logs and metrics."""
