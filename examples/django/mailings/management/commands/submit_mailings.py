from typing import Any

from django.core.management.base import BaseCommand

from mailings.models import Mailing
from mailings.views import submit


class Command(BaseCommand):
    help = "Submit the mailings that could not be submitted when they were stored."

    def handle(self, *_args: Any, **_options: Any) -> None:
        for row in Mailing.objects.filter(submitted=False).select_related("user"):
            submit(row)
