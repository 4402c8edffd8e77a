"""`make bench-worker`: what a job costs the worker, how soon it starts, and what a thousand at once weigh."""
