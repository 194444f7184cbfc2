from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

import modelyard.client
from modelyard.client import AsyncClient, Client, Retries, ServiceError
from modelyard.client.exchange import Request, Send
from modelyard.client.transport import translated
from modelyard.errors import InputError

DOCS = Path(__file__).parents[3] / "docs"


def test_public_names_are_these_and_no_others():
    """Adding a name is a decision; this list is where it is taken."""
    assert sorted(modelyard.client.__all__) == [
        "AccessDeniedError", "AsyncClient", "Client", "ConflictError", "ConnectionLostError", "InvalidRequestError",
        "ModelNotFoundError", "OverloadedError", "Prediction", "Retries", "ServerError", "ServiceError",
        "ServiceTimeoutError", "TooLargeError", "UnauthorizedError",
    ]  # fmt: skip


def test_both_clients_have_the_same_methods_with_the_same_arguments():
    def methods(kind: type) -> dict[str, list[str]]:
        return {
            name: [str(parameter) for parameter in inspect.signature(method).parameters.values()]
            for name, method in vars(kind).items()
            if inspect.isfunction(method) and (not name.startswith("_") or name == "__init__")
        }

    assert methods(Client) == methods(AsyncClient)


def test_every_public_method_and_error_is_documented():
    page = (DOCS / "reference/python-api.md").read_text(encoding="utf-8")
    names = [name for name, value in vars(Client).items() if inspect.isfunction(value) and not name.startswith("_")]
    assert [name for name in names if f"`.{name}(" not in page] == []
    errors = (DOCS / "reference/errors.md").read_text(encoding="utf-8")
    for kind in (ServiceError, *ServiceError.__subclasses__()):
        assert f"| `{kind.__name__}` | `{kind.code}` | {kind.exit_code} |" in errors


def kinds(kind: type[Exception]) -> list[type[Exception]]:
    return [kind, *(deeper for sub in kind.__subclasses__() for deeper in kinds(sub))]


@pytest.mark.parametrize("kind", [k for k in kinds(httpx.RequestError) if k.__module__.startswith("httpx")])
def test_no_error_of_httpx_comes_through(kind):
    with pytest.raises(ServiceError) as caught, translated("http://x", Send(Request("GET", "/"), 1.0)):
        raise kind("it failed")
    assert isinstance(caught.value.__cause__, kind)
    assert caught.value.where == "http://x"


def test_without_httpx_the_error_says_what_to_install():
    code = "import sys\nsys.modules['httpx'] = None\nimport modelyard.client"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "MissingExtraError: httpx is not installed" in done.stderr
    assert "pip install 'modelyard[client]'" in done.stderr


def test_importing_the_client_loads_no_table_library_and_nothing_of_the_runner():
    code = "import sys, modelyard.client\nprint(*sys.modules)"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    assert not loaded & {"pyarrow", "pandas", "httptools", "pydantic", "opentelemetry", "modelyard.serving"}


@pytest.mark.parametrize(
    "url",
    [
        "", "127.0.0.1:80", "ftp://host", "http://", "http://host:0", "http://host:99999", "http://u:secret@host",
        "http://host/?q=1", "http://[::1", "/v1",
    ],
)  # fmt: skip
def test_what_is_no_url_of_a_service_is_refused_and_not_repeated(url):
    with pytest.raises(InputError, match="not the URL of a service") as caught:
        Client(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [{"timeout": 0}, {"timeout": float("nan")}, {"api_key": "a", "token": "b"}, {"token": "ü"}, {"verify": "/no/file"}],
)
def test_impossible_options_are_refused(options):
    with pytest.raises((InputError, ServiceError)):
        Client("http://127.0.0.1:1", **options)


def test_a_url_may_have_a_path_in_front():
    assert repr(Client("https://host/models/", retries=Retries())) == "Client('https://host/models')"
