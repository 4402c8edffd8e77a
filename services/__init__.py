"""The three services and the parts they share."""
