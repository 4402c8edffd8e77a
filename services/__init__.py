"""The three services and the runtime that they share."""
