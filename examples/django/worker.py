import os

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
django.setup()

from mailings.jobs import letters as letters  # noqa: E402 - needs Django
