"""The tests: `unit` needs nothing, `integration` a real Valkey and Azurite, `browser` a real Chromium too."""
