"""The transports: WebSocket, Server-Sent Events and long polling."""
