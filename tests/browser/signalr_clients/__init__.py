"""Unmodified clients of both generations of SignalR that watch a job: in Node.js, in Chromium and in Python."""
