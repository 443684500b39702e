"""The layer that enforces rate limits and the limit of concurrent requests.

`layer` connects a call to its parts: `estimate` estimates the tokens of the request, `queue` decides which waiting call
is next, and `window` counts the requests and tokens of the last 60 seconds.
"""
