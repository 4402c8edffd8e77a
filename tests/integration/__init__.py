"""Tests of the services as real processes, with Valkey and Azurite."""
