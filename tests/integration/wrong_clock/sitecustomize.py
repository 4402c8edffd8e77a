"""Shift the wall clock of a Python process by `CLOCK_OFFSET_S`; Python imports this module at its start."""

import os
import time

offset_s = float(os.environ["CLOCK_OFFSET_S"])
real_time, real_time_ns = time.time, time.time_ns
time.time = lambda: real_time() + offset_s
time.time_ns = lambda: real_time_ns() + int(offset_s * 1e9)
