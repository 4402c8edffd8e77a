"""The development environment: what `make up` runs on one machine without containers."""
