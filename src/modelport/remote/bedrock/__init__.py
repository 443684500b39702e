"""Models on Amazon Bedrock, through its Converse API and the package boto3.

`model` uses `protocols.converse` to translate a request into arguments for the boto3 client. `transport` calls that
client, which blocks, in a thread, and can interrupt the call (`interruption`). `bodies` limits what the client reads.
`client` creates the client, `errors` turns exceptions of boto3 and botocore into modelport's errors, and `log_filter`
redacts secrets in botocore's logs.
"""
