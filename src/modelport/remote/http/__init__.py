"""The HTTP transport of remote backends.

A backend passes a body and headers to `transport.HTTPTransport`, and receives parsed JSON or parsed events. On the way
out, `requests` checks and encodes the request, and `connections` sends it by the proxies and certificates of the
`environment`. On the way back, `bodies` reads the bytes, `responses` parses them, `errors` turns error responses and
exceptions into modelport's errors, and `redaction` removes the request's secrets from everything that an error quotes.
`httpx_clients` prepares the HTTP clients of vendors' packages to follow the same rules, and `packages` imports the
optional packages.
"""
