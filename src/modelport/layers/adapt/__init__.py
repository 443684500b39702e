"""The layer that adapts a request to what its backend declares, and checks the response.

`plan` decides without I/O how a request is carried out; `layer` carries the plan out. The other modules are the
rewrites that a plan may need, each for the request and for the deltas that come back.
"""
