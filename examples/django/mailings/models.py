from django.conf import settings
from django.db import models


class Mailing(models.Model):
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE)
    title = models.CharField(max_length=100)
    readers = models.TextField()  # one per line
