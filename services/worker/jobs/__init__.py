"""The jobs that come with Headway."""
