"""A job for Headway that creates pictures, their thumbnails and a contact sheet."""
