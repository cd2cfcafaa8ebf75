"""Steelyard: an inference server that holds a latency SLO with the fewest cores at the highest accuracy."""

from steelyard.core.errors import InputError
from steelyard.serving import service

__version__ = "0.1.0"

__all__ = ["InputError", "__version__", "service"]
