"""Models that call other models.

`FallbackModel` has a list of models, and sends each request to the first of them that can respond. A request passes
through the retry and limit layers of `FallbackModel`, and then through all layers of the model that is called.
"""
