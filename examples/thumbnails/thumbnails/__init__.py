"""A job for Headway: pictures, their thumbnails, and a contact sheet."""
