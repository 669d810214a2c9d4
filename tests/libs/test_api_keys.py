"""The strings of API keys: their form, and typing errors found without a call."""

from __future__ import annotations

import re

import pytest

from reelhaul import api_keys


def test_new_key_strings():
    """A new key string is "rh_live_" and 49 letters and digits, well formed, and never the same twice."""
    strings = {api_keys.create_key_string() for _ in range(200)}
    assert len(strings) == 200
    assert all(re.fullmatch("rh_live_[0-9A-Za-z]{49}", each) for each in strings)
    assert all(api_keys.is_well_formed(each) and api_keys.check_credential(each) == each for each in strings)


def test_every_typing_error_is_found():
    """Every wrong character, swap of neighbours, and missing or additional character is found offline."""
    key = api_keys.create_key_string()
    wrong = [
        key[:n] + letter + key[n + 1 :] for n in range(len(key)) for letter in "0aZ_ é" if key[n] != letter
    ]
    wrong += [key[:n] + key[n + 1] + key[n] + key[n + 2 :] for n in range(len(key) - 1)]
    wrong += [key[:n] + key[n + 1 :] for n in range(len(key))] + [key + "0", key[:-1], "", key + key]
    assert [each for each in wrong if each != key and api_keys.is_well_formed(each)] == []


@pytest.mark.parametrize(
    ("credential", "problem"),
    [
        pytest.param(api_keys.create_key_string(), "", id="a new key"),
        ("eyJhbGciOiJFUzI1NiJ9.e30.c2ln", ""),
        ("rh_live_", "57 characters, not 8"),
        ("rh_test_" + "0" * 49, "begins with rh_live_"),
        ("rh_live_" + "-" * 49, "letters and digits"),
        ("rh_live_" + "0" * 48 + "1", "checksum"),
        ("two words", "without spaces"),
        ("naïve", "ASCII"),
        ("line\nbreak", "ASCII"),
    ],
)
def test_credentials_of_clients(credential, problem):
    """A client accepts keys and tokens, and says what is wrong with others without repeating them."""
    if not problem:
        assert api_keys.check_credential(credential) == credential
        return
    with pytest.raises(ValueError, match=problem) as failure:
        api_keys.check_credential(credential)
    assert credential not in str(failure.value)


def test_hash():
    """The stored hash is SHA-256 of the whole string, also of one that is no text."""
    key = api_keys.create_key_string()
    assert len(api_keys.hash_key_string(key)) == 32
    assert api_keys.hash_key_string("\udcff") != api_keys.hash_key_string(key)
