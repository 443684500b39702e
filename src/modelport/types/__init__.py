"""The values that every part of modelport shares: messages, content, output types, tools, capabilities, requests.

Nothing here does I/O or depends on a service. `inputs` makes these values from what callers write; backends use them.
"""
