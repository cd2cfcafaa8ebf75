"""Steelyard: an inference server that holds a latency SLO with the fewest cores at the highest accuracy."""

from steelyard.serving import service

__version__ = "0.1.0"

__all__ = ["__version__", "service"]
