"""The tests: `unit` needs no servers, `integration` runs Valkey and Azurite, `browser` also runs Chromium."""
