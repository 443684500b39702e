"""Models that are made of other models.

`FallbackModel` sends each request to the first model that can answer it. Callers and layers
use it like any other model.
"""
