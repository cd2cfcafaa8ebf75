"""Steelyard beside other servers: same models, same core, same generator (`python bench/peers`)."""
