"""The data types of calls: messages, content, deltas, output types, tools, capabilities, requests.

None of these modules does I/O or depends on a service. `modelport.inputs` converts the arguments of callers to these
types, and the layers and backends work with them only.
"""
