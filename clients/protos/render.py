"""The protocol that tritonclient speaks, written as `.proto` files from its compiled descriptors. Knows no server.

Run: `python -m clients.protos.render`, wherever tritonclient is updated. Comments are not in the descriptors; Triton's own files have them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    ServiceDescriptorProto,
)
from tritonclient.grpc import model_config_pb2, service_pb2

FOLDER = Path(__file__).parent
_HEADER = """\
// Written by `python -m clients.protos.render` from the descriptors in NVIDIA's tritonclient: do not edit.
// Copyright (c) 2020, NVIDIA CORPORATION. All rights reserved. License: LICENSE.txt beside this file.
"""
_SCALARS = {
    getattr(FieldDescriptorProto, f"TYPE_{name.upper()}"): name
    for name in [
        "double",
        "float",
        "int64",
        "uint64",
        "int32",
        "fixed64",
        "fixed32",
        "bool",
        "string",
        "bytes",
        "uint32",
        "sfixed32",
        "sfixed64",
        "sint32",
        "sint64",
    ]
}


def render_all() -> dict[str, str]:
    """File name → text."""
    texts: dict[str, str] = {}
    for module in (model_config_pb2, service_pb2):
        file = FileDescriptorProto.FromString(module.DESCRIPTOR.serialized_pb)
        texts[file.name] = render_file(file)
    return texts


def render_file(file: FileDescriptorProto) -> str:
    """One file of proto3.

    Raises:
        ValueError: it is of another syntax.
    """
    if file.syntax != "proto3":
        raise ValueError(f"{file.name}: expected proto3, got {file.syntax or 'proto2'}: extend clients/protos/render.py")
    lines = [_HEADER + '\nsyntax = "proto3";\n', f"package {file.package};\n"]
    lines += [f'import "{name}";\n' for name in file.dependency]
    for service in file.service:
        lines += [*_service(service), ""]
    for enum in file.enum_type:
        lines += [*_enum(enum), ""]
    for message in file.message_type:
        lines += [*_message(message), ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def _service(service: ServiceDescriptorProto) -> Iterator[str]:
    yield f"service {service.name} {{"
    for method in service.method:
        given = f"{'stream ' * method.client_streaming}{_short(method.input_type)}"
        answer = f"{'stream ' * method.server_streaming}{_short(method.output_type)}"
        yield f"  rpc {method.name}({given}) returns ({answer}) {{}}"
    yield "}"


def _enum(enum: EnumDescriptorProto) -> Iterator[str]:
    yield f"enum {enum.name} {{"
    yield from (f"  {value.name} = {value.number};" for value in enum.value)
    yield "}"


def _message(message: DescriptorProto) -> Iterator[str]:
    yield f"message {message.name} {{"
    maps = {nested.name: nested for nested in message.nested_type if nested.options.map_entry}
    for enum in message.enum_type:
        yield from _indented(_enum(enum))
    for nested in message.nested_type:
        if nested.name not in maps:
            yield from _indented(_message(nested))
    for field in message.field:
        if not field.HasField("oneof_index"):
            yield f"  {_field(field, maps)}"
    for index, oneof in enumerate(message.oneof_decl):
        yield f"  oneof {oneof.name} {{"
        yield from (f"    {_field(field, maps)}" for field in message.field if field.HasField("oneof_index") and field.oneof_index == index)
        yield "  }"
    yield "}"


def _field(field: FieldDescriptorProto, maps: dict[str, DescriptorProto]) -> str:
    entry = maps.get(field.type_name.rsplit(".", 1)[-1])
    if entry is not None:
        return f"map<{_type(entry.field[0])}, {_type(entry.field[1])}> {field.name} = {field.number};"
    repeated = "repeated " if field.label == FieldDescriptorProto.LABEL_REPEATED else ""
    return f"{repeated}{_type(field)} {field.name} = {field.number};"


def _type(field: FieldDescriptorProto) -> str:
    return _SCALARS.get(field.type) or _short(field.type_name)


def _short(name: str) -> str:
    return name.removeprefix(".inference.")


def _indented(lines: Iterator[str]) -> Iterator[str]:
    return (f"  {line}" for line in lines)


def main() -> None:
    for name, text in render_all().items():
        (FOLDER / name).write_text(text)


if __name__ == "__main__":
    main()
