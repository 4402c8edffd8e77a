"""The jobs queue and its poison queue on Azure Storage."""
