"""A proto text becomes descriptors of its own, or is refused by line and column, whatever it holds."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelyard.data import Field
from modelyard.errors import InputError, NotFoundError
from modelyard.packages.codecs import proto_schema
from modelyard.packages.codecs.proto import render
from modelyard.packages.codecs.proto_bridge import own_operation
from modelyard.packages.codecs.proto_schema import parse
from modelyard.packages.contract import Contract

SMALL = """syntax = "proto3";
package shop.v1;
message Order { int64 id = 1; message Line { string sku = 1; } repeated Line lines = 2; }
message Price { double value = 1; }
service Model { rpc price (Order) returns (Price); rpc follow (stream Order) returns (Price); }
service Other { rpc quote (Order) returns (Price); rpc again (Order) returns (Price); }
service Third { rpc again (Order) returns (Price); }
"""


def test_operations_are_found_by_name_with_service_and_with_package() -> None:
    schema = parse(SMALL)
    for name in ("price", "Model.price", "shop.v1.Model.price"):
        operation = schema.operation(name)
        assert (operation.name, operation.service) == ("price", "shop.v1.Model")
        assert (operation.input.full_name, operation.output.full_name) == ("shop.v1.Order", "shop.v1.Price")
    assert schema.message("Order.Line").full_name == schema.message("shop.v1.Order.Line").full_name


@pytest.mark.parametrize(
    ("name", "kind", "match"),
    [
        ("nothing", NotFoundError, "price, quote, again"),
        ("", NotFoundError, "no operation"),
        ("again", InputError, r"2 services.*shop\.v1\.Other\.again, shop\.v1\.Third\.again"),
        ("follow", InputError, "is a stream"),
    ],
)
def test_what_is_no_operation_is_refused_with_those_there_are(name: str, kind: type[Exception], match: str) -> None:
    with pytest.raises(kind, match=match):
        parse(SMALL).operation(name)
    with pytest.raises(NotFoundError, match="Order, Price"):
        parse(SMALL).message("Nothing")


def test_two_texts_may_define_the_same_names_differently() -> None:
    first = parse('syntax = "proto3"; message Row { int64 x = 1; }')
    second = parse('syntax = "proto3"; message Row { string x = 1; }')
    assert first.message("Row").fields_by_name["x"].type != second.message("Row").fields_by_name["x"].type


def test_a_text_is_read_once_while_it_is_remembered_and_the_memory_is_bounded() -> None:
    kept = parse(SMALL)
    assert parse(SMALL.encode()) is kept
    for index in range(proto_schema.REMEMBERED):
        parse(f'syntax = "proto3"; message M{index} {{}}')
    assert len(proto_schema._schemas) == proto_schema.REMEMBERED
    assert parse(SMALL) is not kept


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ('syntax = "proto3";\nmessage A {\n  int64 x = 1;\n  Foo y = 2;\n}\n', "line 4, column 3", '"Foo" is not'),
        ('syntax = "proto3";\nmessage A { int64 x = 1; int64 x = 2; }', "line 2, column 32", "already defined"),
        ('syntax = "proto3";\nmessage A { int64 x = 1', "line 2, column 24", "Expected"),
        ('syntax = "proto3";\nmessage A { int32 aB = 1; int32 a_b = 2; }', "line 2, column 33", "JSON name"),
        ('syntax = "proto9";', "line 1, column 10", "proto9"),
        ("\N{SNOWMAN}", "line 1, column 1", ""),
        ("message A { required group B = 1 { } }\0", None, ""),
        ("not proto at all", "line 1, column 1", "Expected"),
    ],
)
def test_errors_name_line_and_column(text: str, where: str | None, what: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(text)
    if where is not None:
        assert caught.value.where == where
    assert what in caught.value.what
    assert caught.value.remedy
    assert "/" not in str(caught.value)


@pytest.mark.parametrize("syntax", ['syntax = "proto2";', 'syntax = "proto3";', 'edition = "2023";'])
def test_every_edition_of_the_language_is_read(syntax: str) -> None:
    label = "optional " if "proto2" in syntax else ""
    schema = parse(f"{syntax} message A {{ {label}int64 x = 1; }} service S {{ rpc f (A) returns (A); }}")
    assert schema.operation("f").input.fields_by_name["x"].number == 1


def test_well_known_types_may_be_imported() -> None:
    imports = "".join(f'import "{name}";\n' for name in sorted(proto_schema.WELL_KNOWN))
    schema = parse(
        f'syntax = "proto3";\n{imports}message A {{ google.protobuf.Timestamp at = 1; google.protobuf.Any any = 2;'
        " google.protobuf.Empty none = 3; google.protobuf.Struct free = 4; google.protobuf.Int64Value maybe = 5; }"
    )
    assert schema.message("A").fields_by_name["at"].message_type.full_name == "google.protobuf.Timestamp"


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd", "../../../../../../etc/passwd", "etc/passwd", "model.proto", "./model.proto", "",
        "/proc/self/environ", "google/protobuf/compiler/plugin.proto", "google/protobuf/../../../etc/passwd", "file:///etc/passwd",
    ],
)  # fmt: skip
def test_nothing_else_can_be_imported(name: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(f'syntax = "proto3";\nimport "{name}";\nmessage A {{}}')
    assert "root:" not in str(caught.value)


def test_a_file_of_the_host_is_not_imported_by_its_full_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by path nor by lying in the working folder, although it would compile."""
    (tmp_path / "secret.proto").write_text('syntax = "proto3"; message Secret { string key = 1; }')
    monkeypatch.chdir(tmp_path)
    for name in (str(tmp_path / "secret.proto"), "secret.proto"):
        with pytest.raises(InputError, match="not allowed") as caught:
            parse(f'syntax = "proto3";\nimport "{name}";\nmessage A {{ Secret secret = 1; }}')
        assert caught.value.where == "line 2, column 1"


def nested(depth: int) -> str:
    return 'syntax = "proto3"; ' + "message A {" * depth + "}" * depth


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("//" + " " * proto_schema.MAXIMUM_TEXT, "bytes"),
        (nested(proto_schema.MAXIMUM_DEPTH + 1), "nested"),
        (nested(500), "recursion limit"),
        (nested(100_000), "bytes"),
        ('syntax = "proto3"; ' + "message A {}" * (proto_schema.MAXIMUM_BLOCKS + 1), "blocks"),
        ('syntax = "proto3"; ' + "".join(f"message A{index} {{}}" for index in range(1001)), "more than 1000 messages"),
        (
            'syntax = "proto3"; message A {' + "".join(f"map<int32, A> m{i} = {i + 1};" for i in range(1001)) + "}",
            "more than 1000 messages",
        ),
        (
            'syntax = "proto3"; message A {' + "".join(f"string f{i} = {i + 1};" for i in range(9000)) + "}",
            "can't load",
        ),
        ('syntax = "proto3"; message A { option (a) = ' + "[" * 200_000, "Expected"),
    ],
)
def test_texts_beyond_the_limits_are_refused(text: str, match: str) -> None:
    with pytest.raises(InputError, match=match):
        parse(text)


def test_what_is_within_the_limits_is_read() -> None:
    assert parse(nested(proto_schema.MAXIMUM_DEPTH)).message(".".join("A" * proto_schema.MAXIMUM_DEPTH))
    with pytest.raises(InputError, match="not UTF-8"):
        parse(b'syntax = "proto3"; // \xff')


PIECES = """message service rpc returns enum oneof map repeated optional required group extend extensions option import
reserved to max int64 string A B x y { } ( ) [ ] < > = ; , . 1 2 0 -1 19000 536870911 'a' "proto3" // /* */ \\ \0
syntax="proto3"; syntax="proto2"; edition="2023"; stream packed=true default=1 google/protobuf/any.proto"""


@settings(max_examples=300)
@given(st.lists(st.sampled_from([*PIECES.split(), "\n"]), max_size=40))
def test_no_text_does_more_than_be_refused(pieces: list[str]) -> None:
    with contextlib.suppress(InputError):
        assert parse(" ".join(pieces)).file.name == "model.proto"


def test_nothing_is_left_on_disk_and_no_process_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proto_schema.tempfile, "tempdir", str(tmp_path))
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    parse('syntax = "proto3"; message LeavesNothing {}')
    with pytest.raises(InputError):
        parse('syntax = "proto3"; message LeavesNothing {} {')
    assert not list(tmp_path.iterdir())
    assert resource.getrusage(resource.RUSAGE_CHILDREN) == children


def test_many_threads_may_read_at_once() -> None:
    found: list[bool] = []

    def read(index: int) -> None:
        for turn in range(5):
            name = f"T{index}_{turn}"
            found.append(parse(f'syntax = "proto3"; message {name} {{}}').message(name).name == name)

    threads = [threading.Thread(target=read, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 40


def test_texts_that_are_forgotten_leave_the_memory() -> None:
    """Two rounds of three hundred texts of 100 messages: the second takes no more than the first left room for."""

    def resident() -> int:
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def fill(name: str) -> int:
        for index in range(300):
            messages = "".join(f"message M{number} {{ int64 a = 1; string b = 2; }}" for number in range(100))
            schema = parse(f'syntax = "proto3"; package {name}{index}; {messages}')
            proto_schema.message_factory.GetMessageClass(schema.message("M0"))(a=1)
        return resident()

    first = fill("warm")
    assert fill("again") - first < 20 * 1024 * 1024


def test_the_contracts_own_file_is_read() -> None:
    contract = Contract((Field("age", "int64"), Field("image", "uint8", (2, 2))), (Field("value", "float32"),))
    operation = own_operation(contract)
    assert operation.input is parse(render(contract)).operation("predict").input
    assert [field.name for field in operation.input.fields_by_name["rows"].message_type.fields] == ["age", "image"]


def test_importing_modelyard_or_the_renderer_loads_no_protobuf() -> None:
    code = (
        "import sys, modelyard, modelyard.packages.codecs.proto\n"
        "print([name for name in sys.modules if name.startswith(('google.protobuf', 'grpc'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
