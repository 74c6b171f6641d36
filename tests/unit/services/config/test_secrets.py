from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.config import secrets
from services.config import text as texts
from services.config.errors import InvalidError, PreconditionError
from services.config.keys import KeyRing, make_key
from services.config.secrets import seal
from services.config.text import Format
from tests.unit.services.config.documents import SCALARS, documents

# Nothing that a document has by chance.
PLAIN = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1, max_size=20).map(
    "s3cr3t{}".format
)
SECRETS = PLAIN.map(lambda text: {"$secret": text})


def plaintexts(value: Any) -> set[str]:
    if isinstance(value, dict):
        return (
            {value["$secret"]} if "$secret" in value else {one for inner in value.values() for one in plaintexts(inner)}
        )
    return {one for inner in value for one in plaintexts(inner)} if isinstance(value, list) else set()


def shown(value: Any) -> Any:
    """Return a written document with its secrets in clear."""
    if isinstance(value, dict):
        return value["$secret"] if "$secret" in value else {key: shown(inner) for key, inner in value.items()}
    return [shown(inner) for inner in value] if isinstance(value, list) else value


@given(documents(SCALARS | SECRETS), st.sampled_from(Format))
def test_no_plaintext_is_left_and_none_is_lost(document: dict[str, Any], form: Format) -> None:
    sealed = seal(texts.write(document, form), form)
    assert set(sealed.plaintexts.values()) == plaintexts(document)
    for text in (sealed.text, json.dumps(sealed.document, ensure_ascii=False)):
        assert "s3cr3t" not in text
    assert texts.read(sealed.text, form).data() == sealed.document
    assert secrets.reveal(sealed.document, sealed.plaintexts) == shown(document)
    # What was stored is put again as it is: the same secrets, and no new ones.
    again = seal(sealed.text, form)
    assert (again.document, again.plaintexts) == (sealed.document, {})
    assert again.kept.keys() == sealed.plaintexts.keys()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a: {$secret: s3cr3t} # why\nb: 1 # b\n", 'a: {$masked: "#0"} # why\nb: 1 # b\n'),
        ("# c\na:\n  $secret: |\n    s3cr3t\n    more\n# d\nb: 1\n", '# c\na:\n  $masked: "#0"\n# d\nb: 1\n'),
        ("a: {'$secret': 's3cr3t'}\n", 'a: {$masked: "#0"}\n'),
        ("a: &x {$secret: s3cr3t}\nb: *x\n", 'a: &x {$masked: "#0"}\nb: *x\n'),
        # A comment that repeats the secret goes, and so do the others.
        ("a: {$secret: s3cr3t} # it is s3cr3t\nb: 1\n", "a:\n  $masked: '#0'\nb: 1\n"),
    ],
)
def test_the_rest_of_the_text_stays(text: str, wanted: str) -> None:
    sealed = seal(text, Format.YAML)
    for number, secret_id in enumerate(sealed.plaintexts):
        wanted = wanted.replace(f"#{number}", secret_id)
    # An id of digits alone needs quotes, where the text is written anew; one with letters does not.
    assert sealed.text.replace("'", "") == wanted.replace("'", "")


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("a: {$secret: 1234}", "a"),
        ("a: {$secret: }", "a"),
        ("a: {$secret: ''}", "a"),
        ("a: {$secret: s3cr3t, b: 1}", "a"),
        ("a: {$secret: &x s3cr3t}\nb: *x", "a"),
        ("b: &x s3cr3t\na: {$secret: *x}", "a"),
        ("$secret: s3cr3t", "the document"),
        ("a: {$masked: s3cr3t}", "a"),
        ("a: {$secret: {b: s3cr3t}}", "a"),
        ("a: {$secret: [s3cr3t]}", "a"),
        ("a: [" + "{$secret: s3cr3t}, " * 65 + "]", "the document"),
        ("a: {$secret: s3cr3t\nb: 's3cr3t", "line 2, column 2"),
    ],
)
def test_a_malformed_secret_is_refused_without_being_shown(text: str, where: str) -> None:
    with pytest.raises(InvalidError) as caught:
        seal(text, Format.YAML)
    assert "s3cr3t" not in str(caught.value)
    assert [violation.where for violation in caught.value.violations] == [where]


@given(PLAIN)
def test_keys(plaintext: str) -> None:
    old, new = make_key(), make_key()
    token = KeyRing.parse([old]).encrypt(plaintext, "shop", "id", "a")
    assert plaintext.encode() not in token.data
    both = KeyRing.parse([new, old])
    assert both.decrypt(token, "shop", "id", "a") == plaintext
    assert both.encrypt(plaintext, "shop", "id", "a").key_id == both.primary != token.key_id
    for elsewhere in (("other", "id"), ("shop", "other")):
        with pytest.raises(PreconditionError, match="the secret is damaged"):
            both.decrypt(token, *elsewhere, "the secret")
    with pytest.raises(PreconditionError, match=f"a.b is under key {token.key_id}"):
        KeyRing.parse([new]).decrypt(token, "shop", "id", "a.b")
