"""Amazon Bedrock's Converse API: pure translation, without I/O.

`request` turns a `Request` into the arguments of `converse` and `converse_stream`, with the help of `content` (blocks
of a message) and `fields` (parameters). `response` reads responses and stream events into deltas.
"""
