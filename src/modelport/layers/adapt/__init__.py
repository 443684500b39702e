"""The layer that adapts a request to what its backend supports, and validates the response.

`plan` decides without I/O how a request is carried out, and `layer` carries the plan out. `capabilities` adapts what
every request has. The other modules are the rewrites that a plan may need, of the request and of its deltas.
"""
