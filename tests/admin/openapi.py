"""Checks an OpenAPI document, and real answers against it: `{"document": …, "answers": [[method, path, answer], …]}`
on standard input. An answer may have no field that the document lacks."""

import json
import sys

from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

asked = json.load(sys.stdin)
document = asked["document"]
faults = [f"document: {fault.message}" for fault in OpenAPIV31SpecValidator(document).iter_errors()]


def close(schema, is_part=False):
    """No other fields than those that are named."""
    if isinstance(schema, list):
        return [close(one, is_part) for one in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {}
    has_fields = "properties" in schema
    for key, value in schema.items():
        if key in ("properties", "$defs", "schemas"):
            closed[key] = {name: close(one) for name, one in value.items()}
        elif key in ("anyOf", "oneOf", "allOf"):
            closed[key] = close(value, has_fields or is_part)
        elif key in ("items", "additionalProperties"):
            closed[key] = close(value)
        else:
            closed[key] = value
    if has_fields and not is_part and "additionalProperties" not in schema:
        closed["unevaluatedProperties"] = False
    return closed


schemas = close({"schemas": document["components"]["schemas"]})["schemas"]
for method, path, answer in asked["answers"]:
    content = document["paths"][path][method]["responses"]["200"]["content"]
    (own,) = content.values()
    schema = {**close(own["schema"]), "components": {"schemas": schemas}}
    for fault in Draft202012Validator(schema).iter_errors(answer):
        faults.append(f"{method} {path} at {list(fault.path)}: {fault.message[:400]}")
        faults.extend(f"    {list(why.path)}: {why.message[:400]}" for why in fault.context)

print("\n".join(faults))
