"""The TLS options of connections to Redis."""

from __future__ import annotations

import ssl
from typing import Any, Literal

import msgspec
from msgspec import Struct

from ...runtime.settings import Secret

VERIFY_MODES = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}


class TlsOptions(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The options, with the names and values that they have in a URL of redis-py."""

    ssl_ca_certs: str | None = None  # without any CA option: the certificate authorities of the machine
    ssl_ca_path: str | None = None
    ssl_ca_data: str | None = None
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    ssl_password: Secret = Secret()  # of the key
    ssl_cert_reqs: Literal["none", "optional", "required"] = "required"
    ssl_check_hostname: bool = True
    ssl_min_version: int | None = None  # a value of ssl.TLSVersion
    ssl_ciphers: str | None = None
    ssl_include_verify_flags: str = ""  # names of ssl.VerifyFlags, separated by commas
    ssl_exclude_verify_flags: str = ""

    def context(self) -> ssl.SSLContext:
        """Return a new context with the files as they are now.

        Raises:
            OSError: a file cannot be read, or is not a certificate or a key.
            ValueError: an option is not valid.
        """
        context = ssl.create_default_context(cafile=self.ssl_ca_certs, capath=self.ssl_ca_path, cadata=self.ssl_ca_data)
        context.check_hostname = self.ssl_check_hostname and self.ssl_cert_reqs != "none"
        context.verify_mode = VERIFY_MODES[self.ssl_cert_reqs]
        for flag in _verify_flags(self.ssl_include_verify_flags):
            context.verify_flags |= flag
        for flag in _verify_flags(self.ssl_exclude_verify_flags):
            context.verify_flags &= ~flag
        if self.ssl_min_version is not None:
            context.minimum_version = ssl.TLSVersion(self.ssl_min_version)
        if self.ssl_ciphers is not None:
            context.set_ciphers(self.ssl_ciphers)
        if self.ssl_certfile is not None:
            context.load_cert_chain(self.ssl_certfile, self.ssl_keyfile, self.ssl_password)
        elif self.ssl_keyfile is not None:
            raise ValueError("a key without a certificate")
        return context

    def redis_py_options(self) -> dict[str, Any]:
        """Return the options as keyword arguments of redis-py's `Redis`."""
        options = {"ssl": True, **msgspec.to_builtins(self)}
        for name in options.keys() & {"ssl_include_verify_flags", "ssl_exclude_verify_flags"}:
            options[name] = _verify_flags(options[name])
        return options


def _verify_flags(names: str) -> list[ssl.VerifyFlags]:
    try:
        return [ssl.VerifyFlags[name.strip()] for name in names.strip("[]").split(",") if name]
    except KeyError as error:
        raise ValueError("unknown flags") from error
