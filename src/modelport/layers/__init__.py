"""Layers between the caller and a backend: adapt, retry, limit and stop.

Each layer is a picklable callable `(request, next) -> async generator of deltas`, where `next` calls the layer below.
A layer with nothing to do returns `next(request)` itself, so that a feature that is not used costs nothing. The module
`base` composes the layers into one callable.
"""
