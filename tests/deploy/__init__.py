"""Tests of the deployment files, against the code and in real containers."""
