"""The JSON codec against its oracle, json_format, and the JSON that it rejects."""

from __future__ import annotations

import json
import tracemalloc

import pytest
from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, timestamp_pb2
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass
from tests.libs import lab, oracle

from reelhaul_transcoding.codec.decoder import Decoder
from reelhaul_transcoding.codec.encoder import Encoder
from reelhaul_transcoding.codec.fragments import FragmentCache
from reelhaul_transcoding.codec.strict_json import parse_json
from reelhaul_transcoding.errors import TranscodingError

ALL, PAGE = lab.message_class("lab.v1.All"), lab.message_class("lab.v1.Page")


def test_codec_agrees_with_json_format() -> None:
    """Each reads what the other writes, and ours accepts no text that json_format rightly rejects."""
    outcomes = oracle.run(10_000, seed=0)
    assert outcomes.total() >= 10_000
    assert outcomes["accepted"] > 500
    assert outcomes["rejected"] > 500


@pytest.mark.parametrize("emit_defaults", [False, True])
def test_cached_lists_equal_uncached_ones(emit_defaults) -> None:
    """A list is the same JSON without a cache, when it is new, and when all, some or none of it repeats."""
    fragments = FragmentCache(1 << 20)
    encode = Encoder(emit_defaults=emit_defaults, fragments=fragments).compile_serialized(PAGE.DESCRIPTOR)
    for page in (
        PAGE(),
        PAGE(next="n"),
        PAGE(subs=[{}, {"name": "a"}, {}]),
        PAGE(subs=[{"name": "a", "child": {"id": 2**60}}, {"name": "b"}], next="n"),
        PAGE(subs=[{"name": "b"}, {"name": "c"}], next="m"),
    ):
        expected = json.loads(Encoder(emit_defaults=emit_defaults).encode(page))
        message = page.SerializeToString()
        assert json.loads(encode(message)) == expected
        assert json.loads(encode(message)) == expected
        size = fragments.size_bytes
        assert json.loads(encode(message)) == expected
        # Fields and elements may come in any order, and some may be unknown.
        unordered = b"\x12\x01x" + b"\x98\x06\x01" + message + b"\x93\x06\x94\x06"
        expected_next = {"next": page.next or "x"}
        assert json.loads(encode(unordered)) == expected | expected_next
        assert fragments.size_bytes == size or not page.subs


@pytest.mark.parametrize(
    "message", [b"\x0a", b"\x0a\x05a", b"\x0a\x02\x0a\x01", b"\x0a\x03\x0a\x01\xff", b"\x0b", b"\x07"]
)
def test_malformed_lists_are_rejected_with_a_cache_as_without(message) -> None:
    """The cache does not hide that an upstream sends what is no message."""
    for encoder in (Encoder(), Encoder(fragments=FragmentCache(1 << 20))):
        with pytest.raises(DecodeError):
            encoder.compile_serialized(PAGE.DESCRIPTOR)(message)


def test_the_cache_is_bounded_and_keeps_what_is_used() -> None:
    """Of endless elements that come twice it keeps at most its limit; one that is used all the time stays."""
    fragments = FragmentCache(20_000)
    table = fragments.add_table()
    other = fragments.add_table()
    for number in range(1000):
        for _ in range(2):
            table.add(b"%d" % number, b"x" * 100)
            other.add(b"%d" % number, b"x")
        assert fragments.size_bytes <= 20_000
        assert table.get(b"0")
    assert table.get(b"999")
    assert not table.get(b"1")
    assert not other.get(b"0")
    for _ in range(2):
        table.add(b"large", b"x" * 20_000)
    assert not table.get(b"large")


def test_the_cache_occupies_what_it_counts() -> None:
    """Kept JSON takes no more memory than the cache accounts for, whatever the buffer it was written into."""
    fragments = FragmentCache(1 << 20)
    encode = Encoder(fragments=fragments).compile_serialized(PAGE.DESCRIPTOR)
    messages = [PAGE(subs=[{"id": number}]).SerializeToString() for number in range(1000)]
    encode(PAGE(subs=[{"id": 1000}]).SerializeToString())
    tracemalloc.start()
    try:
        for message in (*messages, *messages):
            encode(message)
        occupied, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert occupied <= 1.5 * fragments.size_bytes


def test_a_hit_returns_the_kept_json() -> None:
    """What came twice is not encoded again, also when it comes alone instead of in a list."""
    encoder = Encoder(fragments=FragmentCache(1 << 20))
    encode_page, encode_sub = (
        encoder.compile_serialized(message_type)
        for message_type in (PAGE.DESCRIPTOR, PAGE.DESCRIPTOR.fields_by_name["subs"].message_type)
    )
    page = PAGE(subs=[{"name": "a"}])
    for _ in range(2):
        encode_page(page.SerializeToString())
    kept = encode_sub(page.subs[0].SerializeToString())
    assert encode_sub(page.subs[0].SerializeToString()) is kept


def test_names_of_python_are_names_of_fields() -> None:
    """A field may be called as a keyword, a method of messages or anything that is quoted in the source."""
    file = descriptor_pb2.FileDescriptorProto(name="names.proto", package="names.v1", syntax="proto3")
    names = [
        "class",
        "from",
        "None",
        "HasField",
        "DESCRIPTOR",
        "message",
        "out",
        "value",
        "convert",
        "__class__",
    ]
    message_type = file.message_type.add(name="Names")
    for number, name in enumerate(names, 1):
        json_name = f"\"{name}'\\\n\u2028"
        message_type.field.add(name=name, number=number, type=9, label=1, json_name=json_name)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    message = GetMessageClass(pool.FindMessageTypeByName("names.v1.Names"))(**dict.fromkeys(names, "x"))
    expected = {f"\"{name}'\\\n\u2028": "x" for name in names}
    assert json.loads(Encoder().encode(message)) == expected


def test_defaults_are_written_on_demand() -> None:
    """Fields without presence, but not enums at zero, which say nothing."""
    encoded = json.loads(Encoder(emit_defaults=True).encode(PAGE(subs=[{}])))
    assert encoded == {"subs": [{"name": "", "id": "0", "tags": [], "raw": ""}], "next": ""}
    encoded = json.loads(Encoder(emit_defaults=True).encode(ALL()))
    assert (encoded["rc"], encoded["m"], encoded["b"], encoded["d"]) == ([], {}, False, 0)
    assert not {"color", "oS", "opt", "sub", "ts"} & encoded.keys()


def test_whole_doubles_have_no_fraction() -> None:
    """10, not 10.0: scripts expect plain numbers."""
    assert Encoder().encode(ALL(d=10)) == b'{"d":10}'
    assert Encoder().encode(ALL(d=0.5)) == b'{"d":0.5}'
    assert Encoder().encode(ALL(f=0.1)) == b'{"f":0.1}'
    assert Encoder().encode(ALL(d=-0.0)) == b'{"d":-0.0}'
    assert Encoder().encode(ALL(d=2.0**60)) == b'{"d":1.152921504606847e+18}'


def test_any_of_an_unknown_type_keeps_its_bytes() -> None:
    """An unknown detail does not break the encoding of the others."""
    unknown = any_pb2.Any(type_url="type.googleapis.com/nobody.Knows", value=b"\x08\x01")
    encoded = json.loads(Encoder().encode(ALL(any=unknown)))
    assert encoded == {"any": {"@type": "type.googleapis.com/nobody.Knows", "value": "CAE="}}


def test_any_of_a_well_known_type() -> None:
    """Its JSON form is under ``value``."""
    packed = any_pb2.Any()
    packed.Pack(timestamp_pb2.Timestamp(seconds=1))
    encoded = json.loads(Encoder().encode(ALL(any=packed)))
    assert encoded["any"]["value"] == "1970-01-01T00:00:01Z"
    decoded = ALL()
    Decoder().compile(ALL.DESCRIPTOR)(decoded, encoded, "")
    assert decoded.any == packed


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ('{"s":"a","s":"b"}', ""),
        ('{"i64":-9223372036854775809}', "i64"),
        ('{"customJson":"a"}', "customJson"),
        ('{"cusTom":"a","custom_json":"b"}', "custom_json"),
        ('{"sub":{"child":{"id":"x"}}}', "sub.child.id"),
        ('{"rsub":[{},{"nope":1}]}', "rsub[1].nope"),
        ('{"mi":{"k":1.5}}', "mi[k]"),
        ('{"i32":"1e-2"}', "i32"),
        ('{"i32":"1e99"}', "i32"),
        ('{"i32":"1e999"}', "i32"),
        ('{"i32":" 1"}', "i32"),
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
def test_rejection_names_the_field(text, field) -> None:
    """The error names the path of the field, and no other fields of the message."""
    with pytest.raises(TranscodingError) as failure:
        Decoder().compile(ALL.DESCRIPTOR)(ALL(), parse_json(text.encode()), "")
    assert failure.value.violations[0].field == field
    assert "snake" not in failure.value.message


@pytest.mark.parametrize(
    "number", ["100", "1e2", "100.0", '"100"', '"1e2"', '"1E+2"', '"100.0"', '"10000e-2"']
)
def test_integers_may_have_an_exponent(number) -> None:
    """As numbers and as strings. https://protobuf.dev/programming-guides/json/"""
    message = ALL()
    Decoder().compile(ALL.DESCRIPTOR)(message, parse_json(b'{"i32":%s}' % number.encode()), "")
    assert message.i32 == 100


def test_long_names_are_cut_in_errors() -> None:
    """A caller cannot fill the log with the name of a field."""
    with pytest.raises(TranscodingError) as failure:
        Decoder().compile(ALL.DESCRIPTOR)(ALL(), {"m": {"k" * 100_000: 1}}, "")
    assert len(failure.value.message) < 1000


@pytest.mark.parametrize("padding", [0, 64 * 1024])
@pytest.mark.parametrize("number", [-(2**63) - 1, -(2**63) - 513, 2**63, 2**64, 10**30])
def test_integers_beyond_64_bits_are_rejected(number, padding) -> None:
    """None is rounded into the range, in large bodies neither."""
    decode = Decoder().compile(ALL.DESCRIPTOR)
    with pytest.raises(TranscodingError, match="between"):
        decode(ALL(), parse_json(b'{"i64":%d}' % number + b" " * padding), "")
    message = ALL()
    decode(message, parse_json(b'{"i64":%d,"u64":%d}' % (-(2**63), 2**64 - 1) + b" " * padding), "")
    assert (message.i64, message.u64) == (-(2**63), 2**64 - 1)
