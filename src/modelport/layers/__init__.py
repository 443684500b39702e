"""Layers between the caller and a backend: adapt, retry, limit and stop.

Each layer is a picklable callable `(request, next) -> async generator of deltas`. A layer with nothing to do returns
`next(request)`, so that a feature that is not used costs nothing. `base` composes layers into one callable.
"""
