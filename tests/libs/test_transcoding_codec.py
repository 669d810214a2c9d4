"""The JSON codec says what json_format says, only faster, and takes less that it should not."""

from __future__ import annotations

import json
import math

import pytest
from google.protobuf import any_pb2, json_format, timestamp_pb2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.libs import lab
from tests.libs.messages import messages

from reelhaul.downloads.v1 import download_pb2
from reelhaul.jobs.v1 import job_pb2
from reelhaul_transcoding.codec.decoder import Decoder
from reelhaul_transcoding.codec.encoder import Encoder
from reelhaul_transcoding.codec.strict_json import value_of
from reelhaul_transcoding.errors import Fault

ALL = lab.message("lab.v1.All")
KINDS = [ALL.DESCRIPTOR, job_pb2.Job.DESCRIPTOR, download_pb2.Download.DESCRIPTOR]
_random = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.full_name)
@_random
@given(data=st.data())
def test_written_as_json_format_writes(kind, data) -> None:
    """By value: texts of numbers may differ, their values may not."""
    message = data.draw(messages(kind))
    assert _same(json.loads(Encoder().json(message)), json_format.MessageToDict(message))
    everything = json_format.MessageToDict(message, always_print_fields_with_no_presence=True)
    ours = json.loads(Encoder(emit_defaults=True).json(message))
    assert _same(ours, _specified(everything, ours))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.full_name)
@_random
@given(data=st.data())
def test_read_back_as_it_was(kind, data) -> None:
    """What was written reads as the same message, under either kind of name."""
    message = data.draw(messages(kind))
    for encoder in (Encoder(), Encoder(proto_names=True), Encoder(enum_numbers=True)):
        read = type(message)()
        Decoder().of(kind)(read, value_of(encoder.json(message)), "")
        assert _same(json_format.MessageToDict(read), json_format.MessageToDict(message))


@_random
@given(
    text=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from([f.json_name for f in ALL.DESCRIPTOR.fields]), inner, max_size=4
            )
        ),
        max_leaves=12,
    ).map(json.dumps)
)
def test_any_json_is_read_or_refused(text) -> None:
    """Never anything but a Fault, and never a message that json_format reads otherwise."""
    message = ALL()
    try:
        Decoder().of(ALL.DESCRIPTOR)(message, value_of(text.encode()), "")
    except Fault:
        return
    message.SerializeToString()
    assert _same(
        json_format.MessageToDict(message), json_format.MessageToDict(json_format.Parse(text, ALL()))
    )


def _specified(value, ours):
    """*value* without the fields that *ours* leaves out as enums at zero."""
    if isinstance(value, dict) and isinstance(ours, dict):
        return {
            k: _specified(item, ours.get(k)) for k, item in value.items() if k in ours or not _is_zero(item)
        }
    if isinstance(value, list) and isinstance(ours, list) and len(value) == len(ours):
        return [_specified(item, our) for item, our in zip(value, ours, strict=True)]
    return value


def _is_zero(item):
    return isinstance(item, str) and (item.endswith("_UNSPECIFIED") or item == "OK")


def _same(one, other) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one):
        return math.isnan(other)
    return bool(one == other)


def test_whole_doubles_have_no_fraction() -> None:
    """10, not 10.0: scripts meet plain numbers."""
    assert Encoder().json(ALL(d=10)) == b'{"d":10}'
    assert Encoder().json(ALL(d=0.5)) == b'{"d":0.5}'
    assert Encoder().json(ALL(f=0.1)) == b'{"f":0.1}'
    assert Encoder().json(ALL(d=-0.0)) == b'{"d":-0.0}'
    assert Encoder().json(ALL(d=2.0**60)) == b'{"d":1.152921504606847e+18}'


def test_an_any_of_an_unknown_type_keeps_its_bytes() -> None:
    """A detail that nobody here can read is no reason to lose the others."""
    unknown = any_pb2.Any(type_url="type.googleapis.com/nobody.Knows", value=b"\x08\x01")
    told = json.loads(Encoder().json(ALL(any=unknown)))
    assert told == {"any": {"@type": "type.googleapis.com/nobody.Knows", "value": "CAE="}}


def test_a_well_known_type_in_an_any() -> None:
    """Its own JSON form stands under ``value``."""
    packed = any_pb2.Any()
    packed.Pack(timestamp_pb2.Timestamp(seconds=1))
    told = json.loads(Encoder().json(ALL(any=packed)))
    assert told["any"]["value"] == "1970-01-01T00:00:01Z"
    read = ALL()
    Decoder().of(ALL.DESCRIPTOR)(read, told, "")
    assert read.any == packed


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ('{"s":"a","s":"b"}', ""),
        ('{"customJson":"a"}', "customJson"),
        ('{"cusTom":"a","custom_json":"b"}', "custom_json"),
        ('{"sub":{"child":{"id":"x"}}}', "sub.child.id"),
        ('{"rsub":[{},{"nope":1}]}', "rsub[1].nope"),
        ('{"mi":{"k":1.5}}', "mi[k]"),
        ('{"i32":"1e2"}', "i32"),
        ('{"i32":"1_0"}', "i32"),
        ('{"i32":1.5}', "i32"),
        ('{"u32":-1}', "u32"),
        ('{"color":"9"}', "color"),
        ('{"f":3.5e38}', "f"),
        ('{"d":1e400}', "d"),
        ('{"d":"inf"}', "d"),
        ('{"by":"A"}', "by"),
        ('{"mask":"a_b"}', "mask"),
        ('{"ts":"2021-02-30T00:00:00Z"}', "ts"),
        ('{"any":{"@type":"type.googleapis.com/nobody.Knows"}}', "any"),
        ('{"oS":"a","oI":1}', "o_i"),
        ("[]", ""),
        ('"x"', ""),
        ("{" * 200, ""),
        ('{"lv":' + "[" * 150 + "]" * 150 + "}", ""),
    ],
)
def test_refused_with_the_field(text, field) -> None:
    """Who reads the error knows where to look; it never lists what other fields there are."""
    with pytest.raises(Fault) as refused:
        Decoder().of(ALL.DESCRIPTOR)(ALL(), value_of(text.encode()), "")
    assert refused.value.violations[0].field == field
    assert "snake" not in refused.value.text


def test_a_caller_cannot_fill_the_log_with_a_name() -> None:
    """Names of fields are cut in errors."""
    with pytest.raises(Fault) as refused:
        Decoder().of(ALL.DESCRIPTOR)(ALL(), {"m": {"k" * 100_000: 1}}, "")
    assert len(refused.value.text) < 1000
