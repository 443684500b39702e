"""Models that are made of other models.

`FallbackModel` sends each request to the first of its models that can respond. A request passes through the layers of
`FallbackModel` (retry and limit) and then through all layers of the model that is called.
"""
