"""Amazon Bedrock's Converse API.

`request`, `content` and `fields` write the arguments of `converse` and `converse_stream`. `response` reads responses
and stream events into deltas.
"""
