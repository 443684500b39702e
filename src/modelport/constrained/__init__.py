"""Turns an output type into the grammar that an engine enforces while it decodes.

`lark` writes an output type (`modelport.types.output_types`) in llguidance's Lark dialect, which local engines and
llama.cpp's server read. For this, `enforceable` rewrites JSON schemas, and `modelport.schema.regexes` rewrites regular
expressions. `reasoning` adds the model's reasoning to a grammar. `continuation` examines truncated output.
"""
