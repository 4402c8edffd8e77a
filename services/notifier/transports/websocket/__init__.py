"""WebSocket (RFC 6455): any number of watched jobs on one connection."""
