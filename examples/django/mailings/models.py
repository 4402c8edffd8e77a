from django.conf import settings
from django.core.validators import RegexValidator
from django.db import models

one_line = RegexValidator(r"\A[^\x00-\x1f\x7f-\x9f\u2028\u2029]*\Z", "Enter a single line.")


class Mailing(models.Model):
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE)
    title = models.CharField(max_length=100, validators=[one_line])
    readers = models.TextField(help_text="One per line")
    submitted = models.BooleanField(default=False)
