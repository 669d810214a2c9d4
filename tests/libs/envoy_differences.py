"""Where the transcoder deliberately does other than Envoy 1.40, with the test vectors that show it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Difference:
    """A rule on which the two differ, and the names of the requests that show it."""

    rule: str
    #: What the transcoder does, and why.
    reason: str
    cases: frozenset[str]


def _difference(rule: str, reason: str, *cases: str) -> Difference:
    return Difference(rule, reason, frozenset(name for line in cases for name in line.split()))


DIFFERENCES = (
    # Paths.
    _difference(
        "zero segments before a literal",
        "`**` matches zero segments everywhere, as http.proto says; in Envoy not if literals follow.",
        "path-122 own-path-053",
    ),
    _difference(
        "malformed percent-escape",
        "400; Envoy takes `%zz` as text, so that one resource has two names.",
        "path-166 own-path-020 own-path-021 query-132 own-query-074 own-query-075",
    ),
    _difference(
        "invalid UTF-8",
        "400; Envoy forwards it, and the upstream, which cannot parse the message, seems to have failed.",
        "own-path-022 own-path-023 own-path-024 query-131 own-query-072 own-query-073",
    ),
    _difference(
        "case of hexadecimal digits",
        "%2f and %2F are equal in a literal, as in any URL (RFC 3986, 6.2.2.1); Envoy compares them as text.",
        "path-187 own-path-050",
    ),
    _difference(
        "empty segment",
        "`*` does not match it: an empty id in a URL is nearly always an error of the client.",
        "path-231",
    ),
    _difference(
        "trailing slash",
        "It is an empty segment, and does not match; Envoy removes it.",
        "path-232 path-233 own-path-037",
    ),
    # Parameters.
    _difference(
        "field of the path and of a parameter",
        "400; in Envoy the parameter wins, so that a proxy which authorizes by path is evaded.",
        "own-path-001 own-body-026 own-body-027 body-062",
    ),
    _difference(
        "parameter without a value",
        "`name` is `name=`, a value like any other, and an unknown name is rejected; Envoy ignores it.",
        "own-path-004 own-path-006 query-117 own-query-024 own-query-067",
    ),
    _difference(
        "parameter without a name",
        "400, as any unknown parameter; Envoy ignores it.",
        "own-query-039 own-query-040",
    ),
    _difference(
        "singular field given twice",
        "400, under whichever names; Envoy takes the last, and concatenates masks.",
        "query-031 query-134 own-query-078 own-query-079 own-query-080 own-query-196 own-body-085",
    ),
    _difference(
        "maps as parameters",
        "`m[key]=value` sets an entry, as in grpc-gateway; Envoy cannot set maps.",
        "query-171 query-172 own-query-022 own-query-023 own-query-025 own-query-030 own-query-031",
    ),
    _difference(
        "Struct and Value as parameters",
        "They are JSON text, as in grpc-gateway; Envoy rejects Struct and takes each Value for a string.",
        "query-176 query-177 query-178 query-181 query-182 own-query-166 own-query-167 own-query-168",
        "own-query-169 own-query-201 own-query-202 own-query-203",
    ),
    _difference(
        "percent-escape in a parameter's name",
        "Names are decoded like values (WHATWG URL, urlencoded parsing); Envoy decodes values only.",
        "own-query-032",
    ),
    _difference(
        "message as a parameter",
        "Elements of messages and fields within Timestamp cannot be set; Envoy makes one element of all.",
        "own-query-046 own-query-048",
    ),
    _difference(
        "plus sign in base64",
        "It is a space, as in any form, and no base64; Envoy ignores spaces in base64.",
        "query-010 own-query-142 own-query-143",
    ),
    _difference(
        "largest float",
        "3.4028235e38 is a float, as in proto3 JSON; Envoy rejects it.",
        "query-077",
    ),
    _difference(
        "further spellings of scalars",
        "Those of proto3 JSON and of grpc-gateway; Envoy takes yes, no, tRUE, hexadecimal floats, leap "
        "seconds, a point without digits after it, and empty paths in masks as well.",
        "own-query-089 own-query-090 own-query-091 own-query-128 own-query-173 own-query-176 own-query-194",
        "own-query-195",
    ),
    # Bodies.
    _difference(
        "JSON that is none",
        "400, as RFC 8259 has it; Envoy accepts trailing commas, bare and single-quoted names, unknown "
        "escapes, control characters and duplicate names.",
        "body-008 body-010 own-body-042 own-body-044 own-body-045 own-body-056",
    ),
    _difference(
        "JSON of another type",
        '400, as proto3 JSON has it; Envoy takes `"true"` for a bool, one value for an array, an object for '
        "an array, and names of masks in snake_case.",
        "body-030 own-body-018 own-body-066 own-body-078 own-body-081",
    ),
    _difference(
        "null within an array or a map",
        "400, as proto3 JSON has it; Envoy drops the element, or sets the default.",
        "body-040 body-042 own-body-069 own-body-089",
    ),
    _difference(
        "empty body for a field that is no message",
        "The field stays unset; Envoy adds an empty element, or rejects the request.",
        "own-body-012 own-body-013",
    ),
    _difference(
        "body of a rule that has none",
        "400; Envoy parses it, although the rule says that there is none.",
        "own-body-024",
    ),
    _difference(
        "zero within Any",
        "The content of an Any is serialized without defaults; Envoy writes them, which means the same.",
        "own-body-116",
    ),
    # Responses.
    _difference(
        "error after the first message",
        "The last line says so; Envoy ends the response as if it were complete.",
        "stream-004",
    ),
    _difference(
        "HEAD",
        "It is answered as GET without the body (RFC 9110, 9.3.2); Envoy has no route for it.",
        "head",
    ),
    _difference(
        "OPTIONS",
        "It is answered with Allow; Envoy has no route for it.",
        "options",
    ),
    _difference(
        "media type of the body",
        "Anything but JSON is 415; Envoy takes every body for JSON.",
        "text-plain",
    ),
    _difference(
        "NDJSON in a request",
        "A client stream is an array, or a JSON value on each line; Envoy takes an array only.",
        "client-stream-lines",
    ),
)
