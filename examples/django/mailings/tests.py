from unittest.mock import patch

from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import TransactionTestCase

from headway.client import RequestFailed, Unreachable
from mailings.models import Mailing

LETTER = {"title": "News of March", "readers": "Ada\nBen"}


class MailingTest(TransactionTestCase):
    def setUp(self) -> None:
        self.user = User.objects.create_user("ada")
        self.client.force_login(self.user)

    def test_an_invalid_mailing_is_shown_again(self) -> None:
        for change in ({"title": ""}, {"title": " "}, {"title": "a" * 101}, {"title": "a\nb"}, {"readers": ""}):
            response = self.client.post("/mailings", {**LETTER, **change})
            self.assertContains(response, "errorlist", status_code=422)
        assert self.client.post("/mailings").status_code == 422
        assert not Mailing.objects.exists()

    def test_a_mailing_is_submitted_later_if_the_submitter_is_down(self) -> None:
        for error in (Unreachable("down"), RequestFailed(503, "unavailable", "try again")):
            with patch("mailings.views.letters.submit", side_effect=error):
                self.assertContains(self.client.post("/mailings", LETTER), "will be sent later", status_code=503)
        with patch("mailings.views.letters.submit") as submit:
            call_command("submit_mailings")
            call_command("submit_mailings")
        keys = [call.kwargs["idempotency_key"] for call in submit.call_args_list]
        assert keys == [f"mailing {row.pk}" for row in Mailing.objects.filter(submitted=True)]
        assert len(keys) == 2

    def test_a_token_needs_a_login_and_the_submitter(self) -> None:
        with patch("mailings.views.client.list_token", side_effect=Unreachable("down")):
            assert self.client.get("/jobs-token").status_code == 503
        self.client.logout()
        assert self.client.get("/jobs-token").status_code == 401
