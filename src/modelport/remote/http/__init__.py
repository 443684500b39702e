"""The HTTP transport of remote backends.

A backend passes a body and headers to `transport.HTTPTransport`, and receives parsed JSON or parsed events. The other
modules do this for the transport:

- `requests` checks and encodes the request.
- `connections` sends it, with the proxy and the certificates that `environment` reads from environment variables.
- `bodies` reads and decompresses the bytes of the response, and `responses` parses them.
- `errors` turns error responses and exceptions into modelport's errors.
- `redaction` removes the request's secrets from everything that an error quotes.
- `packages` imports the optional packages.

`httpx_clients` makes the HTTP clients of vendors' packages follow the same rules for redirects and bodies; `streams`
limits the streams that such a package parses itself, and `interrupts` ends reads of synchronous clients.
"""
