"""The transports that deliver snapshots to clients: WebSocket, Server-Sent Events and long polling."""
