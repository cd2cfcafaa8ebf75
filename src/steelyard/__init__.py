"""Steelyard: an inference server that holds a latency SLO with the fewest cores at the highest accuracy."""

__version__ = "0.1.0"
