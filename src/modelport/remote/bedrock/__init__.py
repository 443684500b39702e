"""Amazon Bedrock's Converse API, through boto3 in threads.

`model` plans a call, `client` makes the boto3 client, `transport` runs it so that a call can be cancelled, and `errors`
classifies botocore's exceptions.
"""
