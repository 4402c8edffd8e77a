"""The record script: `job_record.lua`, `job_details.lua`, then `rare_operations.lua`."""

from importlib.resources import files

SCRIPT_PARTS = ("job_record.lua", "job_details.lua", "rare_operations.lua")
SCRIPT = b"".join(files(__package__).joinpath(name).read_bytes() for name in SCRIPT_PARTS)
