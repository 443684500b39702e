"""Models on Amazon Bedrock, through its Converse API and the package boto3.

`model` translates a request by `protocols.converse` and passes the arguments to `transport`, which calls the boto3
client in a thread so that the call can be interrupted. `client` creates the client, `errors` classifies botocore's
exceptions, and `log_filter` redacts keys in botocore's logs.
"""
