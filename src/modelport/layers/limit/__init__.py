"""The layer that enforces rate limits and the limit of concurrent requests.

The module `layer` decides when a call may be sent. It uses the other modules: `estimate` estimates the tokens of a
request, `queue` contains the waiting calls in their order, and `window` counts the requests and tokens of the last 60
seconds.
"""
