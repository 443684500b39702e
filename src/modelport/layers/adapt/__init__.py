"""The layer that adapts a request to what its backend supports, and validates the response.

The module `plan` decides how a request is sent, without I/O, and `layer` sends it that way. `capabilities` adapts the
parameters, content and roles of every request. Each of the other modules contains one rewrite that a plan may need:
they change the request before it is sent, the deltas of the response, or both.
"""
