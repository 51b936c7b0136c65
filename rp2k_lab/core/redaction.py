"""Credentials in addresses and messages: kept out of logs, records and process lists.

`redact_args` strips them from the command line at the start; `restore_uri` puts them back where a store is opened.
In between they live in the process's environment: other users of the machine can read a command line, but not the
environment, and the runs of a study inherit it.

`redact` depends on the text alone, so that a store has the same address in every record.  `redact_message` also hides
what this process knows to be a secret, whatever an exception made of it.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote, unquote

_VARIABLE = "RP2K_LAB_ADDRESSES"
_HIDDEN = "***"
# All lengths have a limit: a text may be an argument of 100 kB.
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,30}://")
# An address within a text; a password with a space or quote needs its colon and @ to be found.
_ADDRESS = re.compile(
    r"([A-Za-z][A-Za-z0-9+.-]{0,30}://)((?:[^\s/'\"@:]{0,200}:(?!\d+(?![\w@]))[^\n@]{0,500}@)?[^\s'\"<>]*)"
)
# Paths may contain an @; with an authority they have two slashes, else three.
_LOCAL = ("sqlite:///", "file:///")
# Parameters of addresses that are shown: every other one may be a token.
_PUBLIC_PARAMETERS = re.compile(
    "application_name|cache|charset|connect_timeout|database|db|dbname|driver|host|mode|page|port|schema|sslmode|timeout|"
    "uri|view",
    re.IGNORECASE,
)
_PUBLIC_VALUE = re.compile(r"\d{1,5}|true|false|yes|no|on|off|", re.IGNORECASE)
_SECRET_NAME = r"pass|pwd|token|secret|key|auth|sig|access|code|jwt|cred|session|cookie|bearer|ticket|otp|pin"
_PARAMETER = re.compile(
    rf"([?&;#][\w.%-]{{0,60}}(?:{_SECRET_NAME})[\w.%-]{{0,60}}\\?=)(?!\*\*\*)[^&;#\s'\"]+", re.IGNORECASE
)
# Addresses within a list or function of an override.
_INNER_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,30}://[^\s,()\[\]{}'\"\\]+")
# `user:password@host` without a scheme, or with a broken one.
_BARE_USER = re.compile(
    r"(?:(?<=:/)|(?<=%3A//)|(?<=['\"\s=(]//)|(?<![\w/@.:]))[\w.%+-]{1,200}:(?!//)[^\s/'\"@]{1,200}@(?=[\w\[])"
)
_MESSAGES = (
    (re.compile(r"\b((?:proxy-)?authorization|(?:set-)?cookie|x-[\w-]{0,60}(?:token|key))(['\"]?\s*[:=]\s*['\"]?)"
                r"(?:(?:bearer|basic|token|digest|negotiate)\s+)?[^\s'\",}]+", re.IGNORECASE), r"\1\2***"),
    (re.compile(r"\b((?i:bearer|basic))(\s+)(?=[\w.~+/-]*[\dA-Z=])[\w.~+/-]{6,}=*"), r"\1\2***"),
    (re.compile(r"\b([\w.-]{0,60}(?:password|passwd|passphrase|pwd|secret|token|api[_-]?key|access[_-]?key|private[_-]?key|"
                r"credentials?))(['\"]?\s*=\s*|['\"]\s*:\s*|(?<=word)\s*:\s+)(?!\*\*\*)"
                r"('(?:\\.|[^'\\\n])*'|\"(?:\\.|[^\"\\\n])*\"|[^\s'\",;&)}]+)", re.IGNORECASE), r"\1\2***"),
    # JSON Web Tokens, and tokens of AWS, GitHub, GitLab, Hugging Face, Databricks, Slack and OpenAI.
    (re.compile(r"\beyJ[\w-]{5,}(?:\.[\w-]+){0,2}|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bgithub_pat_\w{20,}|"
                r"\bgh[pousr]_\w{20,}|\bglpat-[\w-]{16,}|"
                r"\bhf_\w{16,}|\bdapi[0-9a-f]{32}|\bxox[abprs]-[\w-]{10,}|\bsk-[\w-]{20,}"), _HIDDEN),
)  # fmt: skip
_SECRET_VARIABLE = re.compile(r"(?:^|_)(?:PASSWORD|PASSWD|TOKEN|SECRET|KEY|CREDENTIALS?)(?:_|$)", re.IGNORECASE)
# Shorter passwords are parts of ordinary words.
_MIN_SECRET = 4


def redact(text: str) -> str:
    """Return text without users and passwords in its addresses, and with *** for tokens in it.  Idempotent."""
    for public, address in _known().items():
        text = text.replace(address, public)  # also with spaces and quotes, which end an address in a text
    text = _BARE_USER.sub("", _redact_addresses(text))
    for pattern, replacement in _MESSAGES:
        text = pattern.sub(replacement, text)
    return text


def redact_message(text: str) -> str:
    """Return `redact(text)`, also without the passwords and tokens of this process, however they are written."""
    for secret in sorted(_secrets(), key=len, reverse=True):
        text = text.replace(secret, _HIDDEN)
    return redact(text)


def redact_tree(tree: Any) -> Any:
    """Return nested plain containers with the addresses in every string redacted; other text stays as it is."""
    if isinstance(tree, dict):
        return {key: redact_tree(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [redact_tree(value) for value in tree]
    return _redact_addresses(tree) if isinstance(tree, str) else tree


def redact_args(arguments: Iterable[str]) -> list[str]:
    """Return a command line without credentials, and keep them for `restore_uri`, also in child processes."""
    known, redacted = _known(), []
    for argument in arguments:
        key, is_set, value = argument.partition("=")
        if not is_set or _SCHEME.search(key):
            key, is_set, value = "", "", argument
        values = re.split(r",(?=[A-Za-z][\w+.-]{0,30}://)", value)  # several ones of `-m`
        public = ",".join(_redact_value(value, known) for value in values)
        redacted.append(f"{key}{is_set}{public}")
    if known:
        os.environ[_VARIABLE] = json.dumps(known)
    return redacted


def _redact_value(value: str, known: dict[str, str]) -> str:
    """Return a value of an override without credentials; add them to `known`."""

    def hide(address: str) -> str:
        public = _redact_address(address)
        if public != address:
            known[public] = address
        return public

    if _SCHEME.match(address := _unquoted(value)):
        return value if (public := hide(address)) == address else _as_quoted(public, value)
    return _INNER_ADDRESS.sub(lambda match: hide(match[0]), value)


def keep_uri(address: str) -> str:
    """Return an address without credentials, and keep them for `restore_uri`, also in child processes."""
    return redact_args([address])[0]


def restore_uri(address: str) -> str:
    """Return the address with the credentials that the command line gave."""
    return _known().get(address, address)


def _redact_addresses(text: str) -> str:
    text = _ADDRESS.sub(lambda match: _redact_address(match[0]), text)
    return _PARAMETER.sub(rf"\1{_HIDDEN}", text)


def _redact_address(address: str) -> str:
    """Return one address, which may have spaces, without its user and with *** for its parameters."""
    scheme = _SCHEME.match(address)
    if not scheme:
        return address
    rest = address[scheme.end() :]
    if not address.startswith(_LOCAL) and "@" in rest and not rest.startswith("user@host"):  # as messages show it
        rest = rest[_user_end(rest) :]
    place, separator, parameters = re.match(r"([^?#]*)(.?)(.*)", rest, re.DOTALL).groups()  # pyright: ignore[reportOptionalMemberAccess]
    return scheme[0] + place + separator + re.sub(r"[^&;#?]+", _public_parameter, parameters)


def _user_end(rest: str) -> int:
    """Return where the host begins, behind the scheme: a password may have any character, also / ? # and @."""
    authority = re.split(r"[/?#]", rest)[0]
    is_host = re.fullmatch(r"[^:@]*(:\d+)?", authority) is not None
    if is_host and (":" not in authority or re.search(r"[?#]", rest[: rest.index("@")])):
        return 0  # the @ is part of the path or of a parameter
    return rest.rindex("@") + 1


def _public_parameter(match: re.Match[str]) -> str:
    """Return `name=***` unless the parameter is known to be harmless."""
    name, is_set, value = match[0].partition("=")
    if not is_set:
        return _HIDDEN if "@" in name else name
    ending = re.search(r"[:,.)]*$", value)[0]  # pyright: ignore[reportOptionalSubscript]  of the sentence around it
    value = value.removesuffix(ending)
    is_secret = re.search(_SECRET_NAME, name, re.IGNORECASE)
    if _PUBLIC_PARAMETERS.fullmatch(name) or (_PUBLIC_VALUE.fullmatch(value) and not is_secret):
        return match[0]
    return f"{name}={_HIDDEN}{ending}"


def _known() -> dict[str, str]:
    """Return the public form of each address to the address; empty if the variable is not ours."""
    try:
        known = json.loads(os.environ.get(_VARIABLE, "{}"))
    except ValueError:
        return {}
    is_ours = isinstance(known, dict) and all(isinstance(value, str) for value in known.values())
    return known if is_ours else {}


def _secrets() -> set[str]:
    """Return the passwords and tokens in the addresses of the command line and in variables named so."""
    variables = {name: value for name, value in os.environ.items() if name != _VARIABLE}
    found = {value for name, value in variables.items() if _SECRET_VARIABLE.search(name) and len(value) >= 8}
    for address in (*_known().values(), *(value for value in variables.values() if _SCHEME.match(value))):
        found |= set(_parts_left_out(_redact_address(address), address))
    forms = {form for secret in found for form in (secret, unquote(secret), quote(secret, safe=""))}
    return {form for form in forms if len(form) >= _MIN_SECRET and not _PUBLIC_VALUE.fullmatch(form)}


def _parts_left_out(public: str, address: str) -> Iterator[str]:
    scheme = _SCHEME.match(address)
    rest = address[scheme.end() :] if scheme else address
    end = rest.rfind("@") + 1
    if end and _SCHEME.sub("", public).startswith(re.split(r"[?#]", rest[end:])[0]):
        user, _, password = rest[: end - 1].partition(":")
        yield password or user
        if password:
            yield rest[: end - 1]
        rest = rest[end:]
    for parameter in re.split(r"[?&;#]", rest)[1:]:
        name, is_set, value = parameter.partition("=")
        if is_set and f"{name}={value}" not in public:
            yield value


def _unquoted(value: str) -> str:
    """Return a value without Hydra's quotes and escapes."""
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        return re.sub(r"\\(['\"\\])", r"\1", value[1:-1])
    return re.sub(r"\\(.)", r"\1", value)


def _as_quoted(text: str, like: str) -> str:
    """Return a value with the quotes or escapes of another."""
    if like[0] in "'\"" and like[0] == like[-1]:
        return like[0] + re.sub(rf"([\\{like[0]}])", r"\\\1", text) + like[0]
    return re.sub(r"([\\()\[\]{}=, \t])", r"\\\1", text) if "\\" in like else text
