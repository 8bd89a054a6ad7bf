"""Tokens of an identity provider: which are taken, and every way to forge one that is refused."""

from __future__ import annotations

import base64
import hmac
import json
import logging
import time
from functools import cache
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from serving.errors import Problem
from serving.front import Front
from serving.json_log import redacted
from serving.jwks import FLOOR_S, FRESH_S, HELD_S, Jwks, JwksError, parse_jwks
from serving.oidc import Tokens
from serving.oidc_terms import OidcTerms
from serving.principals import Scope, local_identity
from serving.security import check_binding
from serving.settings import Settings, SettingsError
from tests.shell import CONTEXT, Clock, run, running
from training.desk import Desk
from training.doctor_identity import identity_findings
from training.usage import UsageError

ISSUER, AUDIENCE = "https://id.bank.example", "fenliu"


@cache
def private(name: str) -> Any:
    return rsa.generate_private_key(65537, 2048) if name == "rsa" else ec.generate_private_key(ec.SECP256R1())


def public(name: str, **extra: Any) -> dict[str, Any]:
    key = private(name).public_key()
    made = (RSAAlgorithm if name == "rsa" else ECAlgorithm).to_jwk(key, as_dict=True)
    return {**made, "kid": name, "use": "sig", **extra}


def jwks(*names: str) -> bytes:
    return json.dumps({"keys": [public(name) for name in names]}).encode()


def token(clock: Clock, key: str = "k1", *, kid: Any = "", alg: str = "ES256", **claims: Any) -> bytes:
    said = {"iss": ISSUER, "aud": AUDIENCE, "sub": "gateway", "exp": clock.now + 300, "iat": clock.now}
    said = {name: value for name, value in {**said, "scope": "openid fenliu:app", **claims}.items() if value}
    return jwt.encode(said, private(key), alg, headers={"kid": key if kid == "" else kid}).encode()


def part(value: Any) -> bytes:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")


class Provider:
    """Terms and a set of keys that a test changes; `asked` counts the fetches."""

    def __init__(self, raw: bytes | None = None, **terms: Any) -> None:
        self.raw: bytes | Exception = jwks("k1", "rsa") if raw is None else raw
        given = {"issuer": ISSUER, "audience": AUDIENCE, "keys": "https://id.bank.example/jwks", **terms}
        self.terms, self.clock, self.mono, self.asked = OidcTerms(**given), Clock(), 0.0, 0
        self.keys = Jwks(self.terms, monotonic=lambda: self.mono, read=self.read)
        self.tokens = Tokens(self.terms, self.keys, self.clock)
        self.keys.refresh()

    def read(self) -> bytes:
        self.asked += 1
        if isinstance(self.raw, Exception):
            raise self.raw
        return self.raw

    def refused(self, given: bytes) -> str:
        with pytest.raises(Problem) as problem:
            self.tokens.identify(given)
        assert problem.value.status == 401
        assert b"invalid_token" in dict(problem.value.headers)[b"www-authenticate"]
        return problem.value.detail


@pytest.mark.parametrize(("key", "alg"), [("k1", "ES256"), ("rsa", "RS256"), ("rsa", "PS256")])
def test_a_good_token_says_who_it_is(key: str, alg: str) -> None:
    provider = Provider()
    who = provider.tokens.identify(token(provider.clock, key, alg=alg))
    assert (who.principal, who.scopes) == ("oidc:gateway", frozenset({Scope("app")}))


def test_every_forged_token_is_refused() -> None:
    provider = Provider()
    clock, refused = provider.clock, provider.refused
    good = token(clock)
    head, body, mark = good.split(b".")
    provider.tokens.identify(good)
    for at in range(len(good)):  # any one character, the last one's unused bits among them
        other = good[:at] + (b"A" if good[at : at + 1] != b"A" else b"B") + good[at + 1 :]
        refused(other)
        refused(good[:at] + b"!" + good[at:])  # which base64 decoders pass over
    assert "signature" in refused(token(clock, "stranger", kid="k1"))
    claims = json.loads(base64.urlsafe_b64decode(body + b"=="))
    none = part({"alg": "none", "typ": "JWT"}) + b"." + part(claims) + b"."
    refused(none)
    assert "not allowed" in refused(none + mark)
    pem = private("rsa").public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    signed = part({"alg": "HS256", "kid": "rsa"}) + b"." + part(claims)
    mac = base64.urlsafe_b64encode(hmac.digest(pem, signed, "sha256")).rstrip(b"=")
    assert "not allowed" in refused(signed + b"." + mac)
    assert "does not sign by" in refused(part({"alg": "RS256", "kid": "k1"}) + b"." + body + b"." + mark)
    own = part({"alg": "ES256", "kid": "mine", "jwk": public("stranger")}) + b"." + body + b"." + mark
    assert "not known" in refused(own)
    crit = part({"alg": "ES256", "kid": "k1", "crit": ["b64"], "b64": False}) + b"." + body + b"." + mark
    refused(crit)
    assert "bytes" in refused(good + b"A" * 8192)
    for garbage in (b"eyJ", b"eyJ..", b"eyJ.a.b", b"\xff.\xff.\xff", head + b"." + body):
        refused(garbage)


@pytest.mark.parametrize(
    ("claims", "said"),
    [
        ({"aud": "another"}, "audience"), ({"aud": None}, "no claim aud"),
        ({"iss": "https://evil"}, "issuer"),
        ({"exp": None}, "no claim exp"), ({"sub": None}, "no claim sub"), ({"sub": 7}, ""),
        ({"exp": "soon"}, "no time"), ({"exp": float("inf")}, "no time"),
        ({"nbf": 3e9}, "future"), ({"iat": 3e9}, "future"),
    ],
)  # fmt: skip
def test_wrong_claims_are_refused_and_named(claims: dict[str, Any], said: str) -> None:
    provider = Provider()
    assert said in provider.refused(token(provider.clock, **claims))


def test_a_token_expires_leeway_included_even_when_it_is_remembered() -> None:
    provider = Provider(leeway_s=30)
    given = token(provider.clock)
    provider.clock.now += 329
    provider.tokens.identify(given)
    provider.clock.now += 1
    assert "expired" in provider.refused(given)


def test_only_our_words_count_and_only_roles_that_tokens_may_have() -> None:
    def scopes(said: Any, **terms: Any) -> set[str]:
        provider = Provider(**terms)
        who = provider.tokens.identify(token(provider.clock, **said))
        return {scope.text for scope in who.scopes}

    powers = {"scope": "admin fenliu:admin fenliu:operator:bj fenliu:approver fenliu:operator fenliu:x"}
    every = ("app", "operator", "approver", "engineer", "admin")
    assert scopes(powers) == set()
    assert scopes(powers, roles=every) == {"admin", "operator:bj", "approver"}
    assert scopes({"scope": ["fenliu:app", 3]}) == {"app"}
    by_org = {"roles": every, "org_claim": "bank.org"}
    assert scopes({**powers, "bank": {"org": "bj"}}, **by_org) == {"admin", "operator:bj", "approver:bj"}
    assert scopes({**powers, "bank": {"org": "sh"}}, **by_org) == {"admin", "operator:sh", "approver:sh"}
    assert scopes({**powers, "bank": {"org": "*"}}, **by_org) == {"admin", "operator:bj", "approver"}
    assert scopes(powers, **by_org) == {"admin"}  # no org, no power over one
    nested = {"realm_access": {"roles": ["fenliu:app"]}, "scope": None}
    assert scopes(nested, scopes_claim="realm_access.roles") == {"app"}


def test_a_rotated_key_is_found_within_the_floor_and_the_old_one_goes() -> None:
    provider = Provider()
    before, after = token(provider.clock), token(provider.clock, "k2")
    provider.tokens.identify(before)
    provider.raw = jwks("k2", "rsa")
    assert "looked up" in provider.refused(after) and provider.asked == 1
    provider.keys.refresh()
    assert provider.asked == 1  # the floor: whoever makes up key ids fetches nothing
    provider.mono += FLOOR_S
    assert provider.keys.refresh() and provider.asked == 2
    assert provider.tokens.identify(after).principal == "oidc:gateway"
    assert "not known" in provider.refused(before)  # although it was remembered


def test_keys_are_asked_for_again_when_they_are_old_and_not_before() -> None:
    provider = Provider()
    provider.mono += FRESH_S - 1
    provider.keys.refresh()
    assert provider.asked == 1
    provider.mono += 1
    assert not provider.keys.refresh() and provider.asked == 2  # the same keys


def test_without_keys_nobody_gets_in(caplog: pytest.LogCaptureFixture) -> None:
    provider = Provider()
    given = token(provider.clock)
    logging.getLogger("fenliu").propagate = True
    provider.raw = OSError("away")
    provider.mono += FRESH_S
    provider.keys.refresh()
    provider.tokens.identify(given)  # what was known stays
    provider.mono += HELD_S
    assert provider.keys.refresh()
    with pytest.raises(Problem) as problem:
        provider.tokens.identify(given)
    assert (problem.value.code, problem.value.status) == ("identity_unavailable", 503)
    assert (b"retry-after", b"5") in problem.value.headers and len(caplog.records) == 1


def test_only_public_keys_for_signatures_are_taken() -> None:
    weak = RSAAlgorithm.to_jwk(rsa.generate_private_key(65537, 1024).public_key(), as_dict=True)
    whole = ECAlgorithm.to_jwk(private("k1"), as_dict=True)
    useless = [
        {"kty": "oct", "k": "c2VjcmV0", "kid": "s"}, {**weak, "kid": "weak"}, {**whole, "kid": "private"},
        public("k1", use="enc"), public("k1", alg="HS256"), {"kty": "EC", "crv": "P-256"}, 7,
    ]  # fmt: skip
    assert list(parse_jwks(json.dumps({"keys": [*useless, public("rsa")]}).encode())) == ["rsa"]
    for raw in (json.dumps({"keys": useless}).encode(), b"[]", b"{", b'{"keys": 7}', b"[" * 50_000):
        with pytest.raises(JwksError):
            parse_jwks(raw)


def test_a_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    keys = Jwks(OidcTerms(issuer=ISSUER, audience=AUDIENCE, keys=str(path)))
    assert not keys.refresh() and "could not be read" in keys.problem
    path.write_bytes(jwks("k1"))
    assert keys.refresh() and list(keys.keys) == ["k1"] and not keys.refresh()
    path.write_bytes(b"{" * 10)
    assert not keys.refresh() and list(keys.keys) == ["k1"] and keys.problem
    path.write_bytes(jwks("k1", "k2"))
    assert keys.refresh() and set(keys.keys) == {"k1", "k2"}


ENV = {"FENLIU_OIDC_ISSUER": ISSUER, "FENLIU_OIDC_AUDIENCE": AUDIENCE, "FENLIU_OIDC_JWKS": "/etc/jwks.json"}


@pytest.mark.parametrize(
    ("env", "named"),
    [
        ({"FENLIU_OIDC_ISSUER": ISSUER}, "FENLIU_OIDC_JWKS must be set"),
        ({**ENV, "FENLIU_OIDC_JWKS": "http://id.bank.example/jwks"}, "https://"),
        ({**ENV, "FENLIU_OIDC_JWKS": "https://u:hunter2@id/jwks"}, "no user or password"),
        ({**ENV, "FENLIU_OIDC_ALGORITHMS": "RS256,HS256"}, "not HS256"),
        ({**ENV, "FENLIU_OIDC_ALGORITHMS": "none"}, "not none"),
        ({**ENV, "FENLIU_OIDC_ROLES": "app,root"}, "not root"),
        ({**ENV, "FENLIU_OIDC_LEEWAY_S": "3600"}, "from 0 to 300"),
    ],
)
def test_settings_are_whole_or_refused(env: dict[str, str], named: str) -> None:
    with pytest.raises(SettingsError, match=named) as refused:
        Settings.from_env(env)
    assert "hunter2" not in str(refused.value)


def test_an_identity_provider_is_a_way_to_listen_beyond_loopback() -> None:
    settings = Settings.from_env({**ENV, "FENLIU_HOST": "0.0.0.0"})
    check_binding(settings)
    assert settings.oidc is not None and settings.oidc.roles == ("app",) and settings.must_approve is True


def test_over_http_401_and_403_say_why_and_a_person_alone_publishes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    path.write_bytes(jwks("k1"))
    env = {**ENV, "FENLIU_OIDC_JWKS": str(path), "FENLIU_OIDC_ROLES": "app,operator,approver,admin"}
    body = {"user_id": "u1", "context": CONTEXT}
    now = Clock(time.time())

    def bearer(**claims: Any) -> str:
        return f"Bearer {token(now, **claims).decode()}"

    async def story() -> None:
        oidc = Settings.from_env(env).oidc
        async with running(app=Front, settings={"oidc": oidc, "role": "all"}) as shell:
            page = await shell.post("/v1/recommend", body, authorization=bearer())
            assert page.status_code == 200
            bad = await shell.post("/v1/recommend", body, authorization=bearer(aud="x"))
            assert bad.status_code == 401 and bad.json()["code"] == "unauthorized"
            assert "audience" in bad.json()["detail"] and "invalid_token" in bad.headers["www-authenticate"]
            none = await shell.post("/v1/recommend", body, authorization=bearer(scope="openid"))
            assert none.status_code == 403 and "has no scope" in none.json()["detail"]
            alone = bearer(scope="fenliu:operator:bj fenliu:approver fenliu:admin", sub="ann")
            ask = {"part": "policy", "content": {"approvals": "off"}, "reason": "r"}
            anonymous = await shell.post("/v1/plan:propose", ask, if_match='"0"')
            assert anonymous.status_code == 403, anonymous.text
            made = await shell.post("/v1/plan:propose", ask, authorization=alone, if_match='"0"')
            assert made.status_code == 201, made.text
            given = made.json()
            turn = {"proposal": given["id"], "content": given["content"]}
            refused = await shell.post("/v1/plan:approve", turn, authorization=alone)
            assert refused.status_code == 403 and refused.json()["code"] == "same_person", refused.text
            turn = {"proposal": given["id"], "alone": True, "reason": "r"}
            refused = await shell.post("/v1/plan:publish", turn, authorization=alone, if_match='"0"')
            assert refused.status_code == 409, refused.text

    run(story)


def test_a_token_never_reaches_a_log() -> None:
    given = token(Clock()).decode()
    assert given not in redacted(f"refused {given}") and "jwt ***" in redacted(f"refused {given}")


def test_the_doctor_looks_at_the_keys(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    env = {**ENV, "FENLIU_OIDC_JWKS": str(path), "FENLIU_HOME": str(tmp_path)}

    def found(**more: str) -> list[tuple[str, str]]:
        settings = Settings.from_env({**env, **more})
        return [(one.state, one.said + one.remedy) for one in identity_findings(settings, {})]

    assert list(identity_findings(Settings(home=tmp_path), {})) == []
    assert [state for state, _ in found()] == ["bad"]
    path.write_bytes(jwks("k1"))
    path.chmod(0o644)
    assert [state for state, _ in found()] == ["ok"]
    ((state, said),) = found(FENLIU_OIDC_ALGORITHMS="RS256")
    assert state == "bad" and "FENLIU_OIDC_ALGORITHMS" in said
    path.chmod(0o666)
    assert "chmod" in found()[1][1]
    Desk(Settings(home=tmp_path), {}).keys.issue(local_identity(), "ann", ["admin"])
    assert "never both" in found(FENLIU_OIDC_ROLES="app,operator")[2][1]


def test_the_command_line_takes_a_token_too(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    path.write_bytes(jwks("k1"))
    settings = Settings.from_env({**ENV, "FENLIU_OIDC_JWKS": str(path), "FENLIU_HOME": str(tmp_path)})
    now = Clock(time.time())
    assert Desk(settings, {"FENLIU_KEY": token(now).decode()}).who.principal == "oidc:gateway"
    with pytest.raises(UsageError, match="audience"):
        _ = Desk(settings, {"FENLIU_KEY": token(now, aud="x").decode()}).who
