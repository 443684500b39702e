"""The values that every part of modelport shares: messages, content, output types, tools, capabilities, requests.

Nothing here does I/O or knows a service. `inputs` makes these values from what callers write; backends consume them.
"""
