"""What operators do with jobs of other callers: run them again, erase them, and look after the poison queue."""
