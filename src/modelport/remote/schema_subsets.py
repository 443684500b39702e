"""The subsets of JSON Schema that services enforce. The comments name the pages that document the subsets."""

from __future__ import annotations

from dataclasses import replace

from modelport.schema.rules import SchemaRules

_NUMBER_KEYWORDS = frozenset({"multipleOf", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})
_FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"})

#: From the section "Supported schemas" of https://developers.openai.com/api/docs/guides/structured-outputs
OPENAI = SchemaRules(
    keywords=_NUMBER_KEYWORDS | {"pattern", "minItems", "maxItems"},
    formats=_FORMATS,
    all_required=True,
    recursive=True,
    object_root=True,
    any_object=True,
    max_properties=5000,
    max_depth=10,
    max_enum=1000,
)

#: Azure enforces fewer keywords than OpenAI, and its limits for the size of a schema are lower; see
#: https://learn.microsoft.com/azure/foundry/openai/how-to/structured-outputs
AZURE = replace(OPENAI, keywords=frozenset(), formats=frozenset(), max_properties=100, max_depth=5, max_enum=500)

#: From "JSON Schema support" of https://docs.aws.amazon.com/bedrock/latest/userguide/structured-output.html
BEDROCK = SchemaRules(keywords=frozenset({"allOf"}), formats=_FORMATS | {"uri"})
