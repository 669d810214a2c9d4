"""The codec against json_format, its oracle: ``python -m tests.libs.oracle [--cases 1000000]``.

A case is one text that ours or json_format wrote or that is random, read by the other or by both.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from copy import deepcopy
from functools import cache
from typing import Any

import hypothesis
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tests.libs import lab
from tests.libs.messages import messages

from reelhaul.downloads.v1 import download_pb2
from reelhaul.jobs.v1 import job_pb2, job_service_pb2
from reelhaul_transcoding.codec.decoder import Decoder, Setter
from reelhaul_transcoding.codec.encoder import Encoder
from reelhaul_transcoding.codec.fragments import FragmentCache
from reelhaul_transcoding.codec.strict_json import parse_json
from reelhaul_transcoding.errors import TranscodingError

MESSAGE_TYPES: list[Descriptor] = [
    lab.message_class("lab.v1.All").DESCRIPTOR,
    lab.message_class("lab.v1.Kinds").DESCRIPTOR,
    lab.message_class("lab.v1.Page").DESCRIPTOR,
    job_pb2.Job.DESCRIPTOR,
    job_service_pb2.ListJobsResponse.DESCRIPTOR,
    download_pb2.Download.DESCRIPTOR,
]

#: Values that fields of one kind or another accept, or nearly.
_VALUES: list[Any] = [
    *(
        None,
        True,
        False,
        {},
        [],
        "",
        " ",
        "x",
        0,
        -0.0,
        1,
        -1,
        1.0,
        1.5,
        1e2,
        2**31,
        -(2**31) - 1,
        2**32,
        2**63,
    ),
    *(-(2**63), -(2**63) - 1, 2**64 - 1, 2**64, 10**400, 3.5e38, 3.4028235e38, 1e-46, 1.7976931348623157e308),
    *("1", "-1", "+1", "01", " 1", "1_0", "1.0", "1.5", "1e2", "1E+2", "-0", "0x10", "１", "1e400", "9" * 40),
    *("NaN", "nan", "Infinity", "-Infinity", "+Infinity", "inf", "infinity", "-", ".5", "5.", "true", "null"),
    *("RED", "red", "JOB_STATE_UNSPECIFIED", "COLOR_UNSPECIFIED", 99, 2.0, "2", "NULL_VALUE"),
    *("AA==", "AA=", "AA", "A", "_-8=", "_-8", "+/8=", "AA==AA", "A A=", "AAAA====", "äöüß"),
    *("1970-01-01T00:00:00Z", "1970-01-01T00:00:00.1Z", "1970-01-01T00:00:00.1234567890Z", "1970-01-01"),
    *(
        "1970-01-01T00:00:00+23:59",
        "1970-01-01T00:00:00-00:00",
        "1970-01-01t00:00:00z",
        "1970-01-01T00:00:00",
    ),
    *("0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59.999999999Z", "1970-02-30T00:00:00Z"),
    *("1970-01-01T24:00:00Z", "1970-01-01T00:00:60Z", "1970-01-01T00:00:00+24:00", "1970-W01-1T00:00:00Z"),
    *(
        "1s",
        "1.5s",
        "-1.5s",
        "+1s",
        "1.s",
        ".5s",
        "1.1234567890s",
        "315576000001s",
        "1",
        "-0.000000001s",
        "1 s",
    ),
    *("a,b", "aB.cD", "a_b", "a,,b", ",", "A", "a.b_c", "aB1", "a1B"),
    *(
        {"@type": "x"},
        {"@type": "type.googleapis.com/lab.v1.Sub", "name": "a"},
        {"@type": 1},
        {"value": "1s"},
    ),
    *({"@type": "type.googleapis.com/google.protobuf.Duration", "value": "1s"}, {"@type": ""}),
    *({"@type": "type.googleapis.com/google.protobuf.Duration", "seconds": 1}, {"a": [None, {"b": 1}]}),
    *([None], [[]], [1], ["1"], [1.5], [{}], {"true": True, "1": False}, {"1": 1, "01": 2}, {"": ""}),
]


class Difference(AssertionError):
    """The codec and its oracle disagree where they should not."""


def check_encoder(message: Any) -> Iterator[str]:
    """Yield one line for each text that ours writes for *message* and json_format has read alike."""
    expected = _bytes(message)
    message_class, wire = type(message), message.SerializeToString()
    as_dict = json_format.MessageToDict(message)
    for emit_defaults in (False, True):
        for encode in _encoders(message_class.DESCRIPTOR, emit_defaults):
            text = encode(wire)
            parsed = json_format.Parse(text, message_class())
            _check(emit_defaults or json.loads(text) == as_dict, f"json_format writes {as_dict!r}: {text!r}")
            _check(_bytes(parsed) == expected, f"json_format reads otherwise: {text!r} of {message!r}")
            yield "encoder"


def check_decoder(message: Any) -> Iterator[str]:
    """Yield one line for each text that json_format writes for *message* and ours has read alike."""
    expected = _bytes(message)
    for options in (
        {},
        {"preserving_proto_field_name": True},
        {"use_integers_for_enums": True, "indent": None},
        {"always_print_fields_with_no_presence": True, "ensure_ascii": False},
    ):
        text = json_format.MessageToJson(message, **options)  # type: ignore[arg-type]
        decoded = _decode(type(message).DESCRIPTOR, text)
        _check(decoded is not None and _bytes(decoded) == expected, f"ours reads otherwise: {text}")
        yield "decoder"


def check_text(message_type: Descriptor, text: str) -> Iterator[str]:
    """Yield one line if ours rejects *text*, or json_format reads it alike, or the difference is listed."""
    decoded = _decode(message_type, text)
    if decoded is None:
        yield "rejected"
        return
    message_class = GetMessageClass(message_type)
    try:
        parsed = json_format.Parse(text, message_class())
    except (json_format.ParseError, ValueError, TypeError, AttributeError, RecursionError) as error:
        reason = next((name for name, applies in DIFFERENCES.items() if applies(text, str(error))), "")
        _check(bool(reason), f"only ours accepts {text}: {error}")
        yield reason
        return
    equal = _bytes(decoded) == _bytes(parsed)
    _check(equal, f"read otherwise: {text}: {decoded!r}, by json_format {parsed!r}")
    yield "accepted"


#: Texts that only ours accepts, by the reason: whether it applies to a text and the oracle's error.
DIFFERENCES: dict[str, Callable[[str, str], bool]] = {
    # The specification accepts null for every field; json_format fails with an AttributeError.
    # Rounded to seven or eight digits it is a little above; the rules of this project want it accepted.
    "the largest float": lambda text, error: "Float value too" in error and "3.4028235e+38" in text,
    "null for a repeated Value or ListValue": lambda text, error: (
        "RepeatedComposite" in error and "null" in text
    ),
}


@cache
def _encoders(message_type: Descriptor, emit_defaults: bool) -> list[Callable[[bytes], bytes]]:
    cached = Encoder(emit_defaults=emit_defaults, fragments=FragmentCache(1 << 20))
    encoders = (Encoder(emit_defaults=emit_defaults), cached)
    return [encoder.compile_serialized(message_type) for encoder in encoders]


@cache
def _setter(message_type: Descriptor) -> Setter:
    return Decoder().compile(message_type)


def _decode(message_type: Descriptor, text: str) -> Any:
    """Return the message in *text*; None if ours rejects it."""
    message = GetMessageClass(message_type)()
    with suppress(TranscodingError):
        _setter(message_type)(message, parse_json(text.encode(errors="surrogatepass")), "")
        return message
    return None


def _bytes(message: Any) -> bytes:
    return bytes(message.SerializeToString(deterministic=True))


def _check(holds: bool, difference: str) -> None:
    if not holds:
        raise Difference(difference)


@st.composite
def texts(draw: Callable[[st.SearchStrategy[Any]], Any], message_type: Descriptor) -> str:
    """Return JSON of *message_type* in which a value or a character is replaced."""
    message = draw(messages(message_type, 2, packs=True))
    # In an order of its own: maps are in any order.
    value = json.loads(json.dumps(json_format.MessageToDict(message), sort_keys=True))
    name = draw(st.sampled_from([field.json_name for field in message_type.fields]))
    value.setdefault(name, None)
    for _ in range(draw(st.integers(1, 3))):
        container, key = draw(st.sampled_from(_places(value)))
        container[key] = deepcopy(draw(st.sampled_from(_VALUES)))
    text = json.dumps(value, ensure_ascii=draw(st.booleans()))
    if draw(st.integers(0, 3)) == 0:
        position = draw(st.integers(0, len(text)))
        end = position + draw(st.integers(0, 2))
        text = text[:position] + draw(st.sampled_from(_FRAGMENTS)) + text[end:]
    return text


_FRAGMENTS = [
    "",
    ",",
    ":",
    "[",
    "]",
    "{",
    "}",
    '"',
    "\\",
    "\\u0000",
    "\\ud800",
    "\x00",
    "\n",
    "\ufeff",
    "0",
    "-",
    ".",
]
_FRAGMENTS += ["e5", "NaN", "Infinity", "null", "true", "//", "\xa0", '"s":1,', '"a":', "'", "+"]


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Return every place inside *value*: the container and its key or index."""
    keys: list[Any] = list(value) if isinstance(value, dict) else list(range(len(value)))
    return [
        place
        for key in keys
        for place in [(value, key), *(_places(value[key]) if isinstance(value[key], dict | list) else [])]
    ]


def run(cases: int, seed: int) -> Counter[str]:
    """Check at least *cases* cases; return how many had which outcome. Raises Difference.

    The cases depend on the *seed* only.
    """
    outcomes: Counter[str] = Counter()
    # Hypothesis becomes slower with every example that it remembers.
    examples = max(1, min(500, cases // len(MESSAGE_TYPES) // 12))
    while outcomes.total() < cases:
        for message_type in MESSAGE_TYPES:
            hypothesis.seed(seed)(_check_type(message_type, examples, outcomes))()
            seed += 1
    return outcomes


def _check_type(message_type: Descriptor, examples: int, outcomes: Counter[str]) -> Callable[[], None]:
    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        message = data.draw(messages(message_type, packs=True))
        outcomes.update(check_encoder(message))
        outcomes.update(check_decoder(message))
        for _ in range(4):
            outcomes.update(check_text(message_type, data.draw(texts(message_type))))

    return check


def main() -> int:
    """Run the cases and print their outcomes; return 0 if there is no difference that is not listed."""
    parser = argparse.ArgumentParser(prog="python -m tests.libs.oracle", description=__doc__)
    parser.add_argument("--cases", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    arguments = parser.parse_args()
    print(f"seed={arguments.seed}", flush=True)
    outcomes = run(arguments.cases, arguments.seed)
    for outcome, count in sorted(outcomes.items()):
        print(f"  {outcome:<60} {count:>9,}")
    print(f"oracle ok cases={outcomes.total()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
