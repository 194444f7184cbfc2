"""An identity provider for tests: a web server on this machine with an issuer's documents, and a key to sign with."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

__all__ = ["Issuer"]


class Issuer:
    """Answers with `documents` by path while it is `up`; a text is a redirect.

    Attributes:
        asked: Every path that was asked for.
    """

    def __init__(self) -> None:
        self.documents: dict[str, Any] = {}
        self.asked: list[str] = []
        self.up = True
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def publish(self) -> None:
        """Let the issuer be found by OpenID Connect discovery."""
        public = {**ECAlgorithm.to_jwk(self._key.public_key(), as_dict=True), "kid": "one"}
        self.documents["/.well-known/openid-configuration"] = {"issuer": self.url, "jwks_uri": f"{self.url}/keys"}
        self.documents["/keys"] = {"keys": [public]}

    def token(self, scope: str, **more: Any) -> str:
        """Return a token for the audience `runner`, good for a minute."""
        claims = {"iss": self.url, "aud": "runner", "sub": "ada", "exp": int(time.time()) + 60, "scope": scope, **more}
        return jwt.encode(claims, self._key, "ES256", headers={"kid": "one"})

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _handler(issuer) -> type[BaseHTTPRequestHandler]:  # noqa: N805  (the handler has a self of its own)
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked.append(self.path)
                document = issuer.documents.get(self.path)
                if not issuer.up or document is None:
                    self.send_error(503)
                elif isinstance(document, str):
                    self.send_response(302)
                    self.send_header("location", document)
                    self.end_headers()
                else:
                    body = json.dumps(document).encode()
                    self.send_response(200)
                    self.send_header("content-length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        return Handler
