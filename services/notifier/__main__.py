"""Run the notifier."""

from ..runtime.service import run
from .app import notifier
from .settings import NotifierSettings

if __name__ == "__main__":
    run(NotifierSettings, notifier)
