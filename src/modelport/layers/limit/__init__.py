"""The layer that keeps rate limits and the limit of concurrent requests.

`window` counts requests and tokens of the last 60 seconds, `queue` orders the waiting calls fairly across threads and
event loops, and `layer` connects both to a call.
"""
