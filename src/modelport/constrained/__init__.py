"""Turns an output type into the grammar that an engine enforces while it decodes.

Data passes from `modelport.types.output_types` through `enforceable` (schemas) or `schema.regexes` (regular
expressions) into llguidance's Lark dialect (`lark`), which every engine here reads.
"""
